// The dispatcher, as the README of dynamic-workflows has one write it, and the one program of all tenants.
import { createDynamicWorkflowEntrypoint, DynamicWorkflowBinding, wrapWorkflowBinding } from "./dynamic-workflows.js";

export { DynamicWorkflowBinding };

const PROGRAM = `
import { WorkerEntrypoint, WorkflowEntrypoint } from "cloudflare:workers";

export class TenantWorkflow extends WorkflowEntrypoint {
  async run(event, step) {
    const asked = event.payload;
    if (asked.sleep) {
      await step.do("before", async () => 0);
      await step.sleep("night", "10 hours");
    }
    let total = 0;
    for (let number = 0; number < (asked.steps || 0); number++) {
      total += await step.do("step " + number, async () => {
        if (asked.run) await this.env.NOTE.fetch("http://note", { method: "POST", body: asked.run + " " + number });
        return number;
      });
    }
    return total;
  }
}

export default class extends WorkerEntrypoint {
  answer() { return 42; }
  async create(options) { return await (await this.env.WORKFLOWS.create(options)).id; }
}
`;

function load(env, tenant) {
  return env.LOADER.get(tenant, async () => ({
    compatibilityDate: "2026-01-01",
    mainModule: "index.js",
    modules: { "index.js": `// ${tenant}\n${PROGRAM}` },
    env: { WORKFLOWS: wrapWorkflowBinding({ tenantId: tenant }), NOTE: env.NOTE },
    globalOutbound: null,
  }));
}

export const DynamicWorkflow = createDynamicWorkflowEntrypoint(async ({ env, metadata }) =>
  load(env, metadata.tenantId).getEntrypoint("TenantWorkflow"));

// What the driver asks for: a tenant's answer; a workflow, created by the tenant, and its end; an end alone.
export default {
  async fetch(request, env) {
    const asked = await request.json();
    const tenant = load(env, asked.tenant).getEntrypoint();
    if (asked.what === "answer") return Response.json(await tenant.answer());
    const id = asked.what === "end" ? asked.id : await tenant.create(asked.options);
    if (asked.what !== "create") await env.WORKFLOWS.unsafeWaitForStatus(id, "complete");
    return Response.json(id);
  },
};
