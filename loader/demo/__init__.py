"""The showcase: continuous integration as a durable workflow, a different one for each repository.

Read `director` first; it is the plot. `host` is the service that it directs, in a process of its own: that is the part
that somebody who embeds cloister would write. `forge` has the repositories, `grants` what their pipelines may reach,
`figures` what is measured. `process` is the director's end of the host process, `chronicle` remembers what the host
told, `screen` shows it while it happens and `timeline` afterwards. `verdict` holds it against what was to be shown.
"""
