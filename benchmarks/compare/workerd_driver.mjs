// workerd under miniflare, with dynamic-workflows: Worker Loader and Workflows as Cloudflare gives them to one machine.
// A driver like the others; see workload.py, whose numbers it is given. Workflows are created by the tenant's own code,
// through the wrapped binding; that one has ended is pushed, not polled.
import { execFileSync } from "node:child_process";
import { appendFileSync, copyFileSync, readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const [what, folder] = process.argv.slice(2);
const { ALONE, TOGETHER, CROWD, SECONDS, STEPS, SLEEPERS, RUNS, STEPS_EACH, BOOTS, WARM } = JSON.parse(process.env.NUMBERS);
const require = createRequire(path.join(process.env.PEERS, "package.json"));
const { Miniflare } = require("miniflare");
const { Pool } = require("undici");
const TENANTS = 10;

const code = path.join(folder, "code");
mkdirSync(code, { recursive: true });
copyFileSync(path.join(import.meta.dirname, "workerd_dispatcher.mjs"), path.join(code, "dispatcher.mjs"));
copyFileSync(
  path.join(process.env.PEERS, "node_modules/@cloudflare/dynamic-workflows/dist/index.js"),
  path.join(code, "dynamic-workflows.js"),
);

const miniflare = new Miniflare({
  workflowsPersist: path.join(folder, "workflows"),
  workers: [{
    name: "dispatcher",
    modulesRoot: code,
    modules: [
      { type: "ESModule", path: path.join(code, "dispatcher.mjs") },
      { type: "ESModule", path: path.join(code, "dynamic-workflows.js") },
    ],
    compatibilityDate: "2026-01-01",
    compatibilityFlags: ["nodejs_compat"],
    workerLoaders: { LOADER: {} },
    workflows: { WORKFLOWS: { name: "dynamic", className: "DynamicWorkflow" } },
    serviceBindings: {
      NOTE: async (request) => {
        appendFileSync(path.join(folder, "bodies"), (await request.text()) + "\n");
        return new Response();
      },
    },
    unsafeDirectSockets: [{ port: 0 }],
  }],
});
const url = await miniflare.unsafeGetDirectURL("dispatcher");
const pool = new Pool(url.origin, { connections: CROWD });

async function post(body) {
  const response = await pool.request({ method: "POST", path: "/", body: JSON.stringify(body) });
  const text = await response.body.text();
  if (response.statusCode !== 200) throw new Error(text);
  return JSON.parse(text);
}

let turn = 0;
const run = (steps) => post({ what: "run", tenant: `tenant-${turn++ % TENANTS}`, options: { params: { steps } } });
const say = (found) => console.log(JSON.stringify(found));
const note = (line) => appendFileSync(path.join(folder, "created"), line + "\n");

async function timed(count, warm, work) {
  const samples = [];
  for (let number = 0; number < count + warm; number++) {
    const began = performance.now();
    await work(number);
    if (number >= warm) samples.push(performance.now() - began);
  }
  say({ ms: samples.sort((a, b) => a - b) });
}

async function together(atOnce) {
  let ended = 0, failed = 0;
  const one = async (until) => {
    while (performance.now() < until) await run(1).then(() => ended++, () => failed++);
  };
  const all = (until) => Promise.all(Array.from({ length: atOnce }, () => one(until)));
  await all(performance.now() + 1000);
  ended = failed = 0;
  const began = performance.now();
  await all(began + 1000 * SECONDS);
  say({ per_s: ended / ((performance.now() - began) / 1000), failed });
}

function workerd() {
  const children = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, "utf8").split(" ");
  return children.find((pid) => pid && readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("workerd"));
}

const resident = () => 1024 * Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${workerd()}/smaps_rollup`, "utf8"))[1]);
const stored = () => 1024 * Number(execFileSync("du", ["-sk", folder], { encoding: "utf8" }).split("\t")[0]);

const workloads = {
  alone: () => timed(ALONE, 10, () => run(1)),
  boot: () => timed(BOOTS, 5, (number) => post({ what: "answer", tenant: `new-${number}` })),
  together: () => together(TOGETHER),
  crowd: () => together(CROWD),
  async steps() {
    await run(1);
    const began = performance.now();
    await run(STEPS);
    say({ per_s: STEPS / ((performance.now() - began) / 1000) });
  },
  async memory() {
    await post({ what: "answer", tenant: "first" });
    const before = resident();
    for (let number = 0; number < WARM; number++) await post({ what: "answer", tenant: `warm-${number}` });
    say({ bytes: (resident() - before) / WARM });
  },
  async sleepers() {
    await run(1);
    const before = [resident(), stored()];
    const began = performance.now();
    for (let number = 0; number < SLEEPERS; number++) {
      await post({ what: "create", tenant: `tenant-${number % TENANTS}`, options: { params: { sleep: true } } });
    }
    const seconds = (performance.now() - began) / 1000;
    await sleep(5000);
    const after = [resident(), stored()];
    say({ per_s: SLEEPERS / seconds, bytes: (after[0] - before[0]) / SLEEPERS, disk: (after[1] - before[1]) / SLEEPERS });
  },
  async crash() {
    for (let number = 0; number < RUNS; number++) {
      const options = { id: `r${number}`, params: { steps: STEPS_EACH, run: `r${number}` } };
      await post({ what: "create", tenant: `tenant-${number % TENANTS}`, options });
    }
    note(RUNS);
    await sleep(3_600_000);
  },
  async recover() {
    const ends = Array.from({ length: RUNS }, (_, number) =>
      post({ what: "end", tenant: `tenant-${number % TENANTS}`, id: `r${number}` }).then(() => true));
    const late = sleep(20_000).then(() => false);
    const found = await Promise.all(ends.map((end) => Promise.race([end, late])));
    say({ ended: found.filter(Boolean).length });
  },
};

for (let number = 0; number < TENANTS; number++) await post({ what: "answer", tenant: `tenant-${number}` });
await workloads[what]();
process.kill(Number(workerd()), "SIGKILL");
process.exit(0);
