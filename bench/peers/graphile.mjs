// Graphile Worker: jobs by one runner in Node; batches and a local queue are at what it recommends for many jobs.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.GD_PEERS_NODE}/`);
const { makeWorkerUtils, run } = require("graphile-worker");
const { Pool } = require("pg");
const [dsn, , count, slots] = process.argv.slice(2);
const handled = new Map();

const utils = await makeWorkerUtils({ connectionString: dsn });
await utils.migrate();
for (let first = 0; first < +count; first += 1000) {
  const jobs = [];
  for (let n = first; n < Math.min(first + 1000, +count); n++) jobs.push({ identifier: "one", payload: { n } });
  await utils.addJobs(jobs);
}
await utils.release();
const pool = new Pool({ connectionString: dsn });
const began = performance.now();
const runner = await run({
  connectionString: dsn,
  concurrency: +slots,
  noHandleSignals: true,
  pollInterval: 1000,
  preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  logger: undefined,
  taskList: { one: async ({ n }) => void handled.set(n, (handled.get(n) ?? 0) + 1) },
});
let left = +count;
while (left > 0) {
  left = +(await pool.query("select count(*) from graphile_worker.jobs")).rows[0].count;
  if (performance.now() - began > 110000) throw new Error(`${left} of ${count} are left after 110 seconds`);
  if (left > 0) await new Promise((go) => setTimeout(go, 20));
}
const seconds = (performance.now() - began) / 1000;
const repeated = [...handled.values()].filter((times) => times > 1).length;
console.log(JSON.stringify({ seconds, ended: +count, missing: +count - handled.size, repeated }));
await runner.stop();
await pool.end();
process.exit(0);
