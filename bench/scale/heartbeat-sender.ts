import { setTimeout as pause } from 'node:timers/promises';
import { batching, hostLoadFields, type LoadBatch, vmLoadFields } from '../../model/load/load.ts';
import { hostKeyOf } from '../../model/repository/host-key.ts';

/**
 * The host workers of a site, as its API sees them: each sends a batch of three heartbeats of ten seconds every thirty, in an open loop.
 * In a process of its own, whose processor time does not count. Prints how many batches were taken, and the time that they took.
 */
const { base, signingKey, hosts, vms, seconds } = JSON.parse(process.argv[2]!) as {
  base: string;
  signingKey: string;
  hosts: string[];
  vms: number;
  seconds: number;
};
const heartbeatS = 10;
const batchS = heartbeatS * batching.heartbeats;
const vmsOf = (host: number) => Array.from({ length: vms }, (_, n) => `vm_${String(host * vms + n).padStart(26, '0')}`);
const row = (length: number) => Array.from({ length }, () => Math.round(Math.random() * 1e5) / 1e5);

function batchOf(host: number, number: number): LoadBatch {
  const ids = vmsOf(host);
  const rows = () => Object.fromEntries(ids.map((vm) => [vm, row(vmLoadFields.length)]));
  return {
    id: `bench-${host}-${number}`,
    processors: 32,
    memoryMiB: 131_072,
    diskMiB: 1_000_000,
    processorUse: Array.from({ length: 32 }, () => Math.round(100 * Math.random())),
    learned: Object.fromEntries(ids.map((vm) => [vm, [0.51234, 0.04321, 7200]])),
    samples: Array.from({ length: batching.heartbeats }, (_, at) => ({
      agoS: (batching.heartbeats - 1 - at) * heartbeatS,
      durationS: heartbeatS,
      host: row(hostLoadFields.length),
      vms: rows(),
    })),
  };
}

const latencies: number[] = [];
let refused = 0;
async function send(host: number, number: number): Promise<void> {
  const name = hosts[host]!;
  const began = performance.now();
  const answer = await fetch(`${base}/internal/hosts/${name}/load`, {
    method: 'POST',
    headers: { authorization: `Bearer ${hostKeyOf(signingKey, name)}`, 'content-type': 'application/json' },
    body: JSON.stringify(batchOf(host, number)),
  });
  await answer.arrayBuffer();
  if (answer.status === 204) latencies.push(performance.now() - began);
  else refused += 1;
}

const began = performance.now();
const count = Math.floor((hosts.length * seconds) / batchS);
const pending: Promise<void>[] = [];
for (let n = 0; n < count; n += 1) {
  const early = began + (n * batchS * 1000) / hosts.length - performance.now();
  if (early > 0) await pause(early);
  pending.push(send(n % hosts.length, Math.floor(n / hosts.length)));
}
await Promise.all(pending);
console.log(JSON.stringify({ batches: latencies.length, refused, latencies: latencies.toSorted((a, b) => a - b) }));
