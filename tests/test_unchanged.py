"""The README's table of what a program written for Cloudflare may use, and for each row the tests that it rests on.

The tests here hold that the table has these rows and no others, and that each test which is named exists.
"""

from __future__ import annotations

import pytest

from .test_guarantees import TESTS, functions

ROWS = {
    "`workers`: `WorkerEntrypoint`": """
        loader/test_sdk.py::test_every_public_name_is_there
        loader/test_sdk.py::test_values_cross_between_workers
        loader/bindings/test_durable.py::test_a_worker_calls_its_objects
    """,
    "steps as decorators": """
        acceptance/test_steps.py::test_dependencies_by_name_form_a_graph_whose_root_runs_once
        acceptance/test_steps.py::test_dependencies_by_list_are_bound_by_position
        acceptance/test_steps.py::test_a_dependency_that_is_under_way_is_waited_for_and_a_failed_one_is_tried_anew
    """,
    "`on_fetch`, `on_scheduled` and `test`": """
        loader/test_sdk.py::test_functions_of_an_older_form_are_handlers
        loader/test_sdk.py::test_the_compatibility_date_says_whether_functions_are_handlers
    """,
    "`fetch`, `scheduled`, `queue`, `tail`": """
        loader/test_sdk.py::test_a_schedule_is_told_to_a_worker
        loader/test_sdk.py::test_values_cross_between_workers
    """,
    "`request.cf`": """
        loader/test_sdk.py::test_what_fetch_gives_may_have_to_be_awaited_still
        loader/test_mounted.py::test_a_middleware_says_where_a_request_is_from
    """,
    "`email`": "loader/test_sdk.py::test_a_mail_is_decided_about",
    "FastAPI, Starlette, Flask, Django": """
        loader/test_frameworks.py::test_starlette_serves
        loader/test_frameworks.py::test_fastapi_serves
        loader/test_frameworks.py::test_django_serves
        loader/test_frameworks.py::test_an_entrypoint_of_an_application_serves_its_web_sockets_too
    """,
    "`urllib`, `requests`, `httpx`": """
        loader/bindings/test_libraries.py::test_libraries_that_a_tenant_brings_reach_the_network
        loader/bindings/test_libraries.py::test_what_a_library_does_elsewhere_it_does_here
        loader/bindings/test_libraries.py::test_libraries_of_a_profile_reach_the_network
    """,
    "packages in pure Python": """
        loader/test_bundle.py::test_packages_come_along
        loader/test_bundle.py::test_the_command_writes_one_file
    """,
    "`pyodide.ffi` (`to_js`": """
        loader/test_shim.py::test_values_are_converted_there_and_back
        loader/test_shim.py::test_the_web_has_its_names
        loader/test_shim.py::test_what_is_asynchronous_can_be_waited_for_where_nothing_is
    """,
    "`js.crypto`: what is random": """
        loader/test_shim.py::test_text_and_chance_have_their_names
        loader/test_shim.py::test_keys_of_the_standard_library_sign_and_make_others
    """,
    "`js.crypto.subtle` with keys": "loader/test_shim.py::test_other_keys_are_the_business_of_the_profile",
    "packages that are not written in Python alone": """
        loader/test_bundle.py::test_what_is_not_python_alone_is_the_hosts
    """,
    "`HTMLRewriter`": """
        loader/test_rewriter.py::test_an_element_is_changed
        loader/test_rewriter.py::test_elements_without_an_end_are_changed_too
    """,
    "web sockets: `js.WebSocketPair`": """
        loader/test_sockets.py::test_a_client_speaks_to_a_tenant
        loader/test_sockets.py::test_an_asgi_application_speaks_on_web_sockets
        loader/test_sockets.py::test_an_object_may_leave_while_its_sockets_are_open
        loader/test_sockets.py::test_a_connection_that_breaks_is_told_to_its_object
    """,
    "web sockets that a worker opens": """
        loader/test_sockets.py::test_a_worker_speaks_to_a_durable_object_itself
        loader/test_sockets.py::test_a_worker_opens_a_web_socket_by_an_address
        loader/bindings/test_dialed.py::test_a_server_on_the_network_is_spoken_to
    """,
    "`js.caches`": "loader/test_shim.py::test_answers_are_kept_for_a_while",
    "`js.ReadableStream`": """
        loader/test_shim.py::test_streams_are_made_as_javascript_makes_them
        loader/test_shim.py::test_numbers_in_bytes_have_their_names
    """,
    "files beside the program": """
        sandbox/test_modules.py::test_files_beside_modules_are_where_programs_look_for_them
        sandbox/test_modules.py::test_what_is_missing_in_a_folder_that_came_along_is_not_found
    """,
    "temporary files: `tempfile`": """
        sandbox/test_library.py::test_temporary_files_lie_in_memory
        sandbox/test_library.py::test_temporary_folders_are_copied_packed_and_moved_as_anywhere
        sandbox/test_library.py::test_what_would_need_a_file_says_what_to_do_instead
    """,
    "`js.eval`, `js.WebAssembly`": "loader/test_shim.py::test_what_has_no_place_here_says_so",
    "`import_from_javascript`": """
        loader/test_sdk.py::test_every_public_name_is_there
        loader/test_sdk.py::test_a_mail_is_decided_about
    """,
    "`ctx.container`": "loader/bindings/test_durable.py::test_there_are_no_containers",
    "bindings for what Cloudflare alone has": "loader/test_sdk.py::test_env_is_the_workers_bindings_everywhere",
}
"""How a row begins, and its tests."""


def table() -> list[str]:
    """The rows."""
    lines = (TESTS.parent / "README.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| what a program uses |")) + 2
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return [line.removeprefix("| ") for line in lines[start:end]]


def test_each_row_of_the_table_rests_on_tests() -> None:
    """Whoever adds one says on which."""
    rows = table()
    assert len(rows) == len(ROWS)
    for row, begin in zip(rows, ROWS, strict=True):
        assert row.startswith(begin), row


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_rests_on_exists(row: str) -> None:
    """Whoever renames or drops a test of these sees what it was for."""
    assert ROWS[row].split()
    for name in ROWS[row].split():
        file, _, function = name.partition("::")
        assert function in functions(TESTS / file), f"{file} has no {function} any longer"
