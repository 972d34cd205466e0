import pg from 'pg';

/** What a filled ledger holds. */
export interface FilledLedger {
  hosts: number;
  /** Running, half of them standalone and half in tasks of one VM; the owners have a network of 1,000 VMs each. */
  vms: number;
  /** Tasks that have ended, each with a VM, a lease and three events, and money that was held and captured for it. */
  ended: number;
  /** Reservations that have not begun, of two VMs each; one makes the planner place. */
  promises: number;
  /** Events of earlier work, in addition to those of the ended tasks. */
  events: number;
}

const vmsPerOwner = 1000;
const images = 5;
const imageBytes = 500 * 2 ** 20;
/** Of one VM. */
const each = { vcpus: 1, memoryMiB: 1024, diskMiB: 2048, overlayMiB: 512 };

export const ownerOf = (index: number): string => `owner_${index}`;
export const hostOf = (index: number): string => `host-${String(index).padStart(5, '0')}`;
export const filledImage = 'debian-12';

/**
 * Fills a migrated, empty ledger as if the work had been done at `nowMs`, by SQL, in seconds. Triggers do not run: what they
 * keep (sums of hosts, numbers of events) is written with the rows. Ends with VACUUM ANALYZE, as autovacuum would.
 */
export async function fillLedger(databaseUrl: string, size: FilledLedger, nowMs: number): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query('BEGIN');
    // Only the tables' own constraints apply; a superuser's right, which no process of a site has.
    await client.query('SET LOCAL session_replication_role = replica');
    await client.query(`SET LOCAL TimeZone = 'UTC'`);
    for (const statement of statements(size, new Date(nowMs).toISOString())) await client.query(statement);
    await client.query('COMMIT');
    await client.query('VACUUM ANALYZE');
  } finally {
    await client.end();
  }
}

/** Owner of the n-th VM or task, n from 0. */
const owner = `'owner_' || (n / ${vmsPerOwner})`;
const hostName = (index: string): string => `'host-' || lpad((${index})::text, 5, '0')`;

function* statements({ hosts, vms, ended, promises, events }: FilledLedger, now: string): Generator<string> {
  const owners = Math.max(1, Math.ceil(Math.max(vms, 1) / vmsPerOwner));
  const at = `'${now}'::timestamptz`;
  const perHost = Math.ceil(vms / hosts);
  // A fifth of each host is free.
  const slots = Math.max(8, Math.ceil(perHost * 1.25));
  yield `INSERT INTO "Owner" (id, name, "maxVms", "maxTasks", "maxQueued", "maxVcpus", "maxMemoryMiB", "maxDiskMiB", "maxReservedVcpuHours")
    SELECT 'owner_' || n, 'owner' || n, 1000000, 1000000, 1000000, 1000000, 1000000000, 1000000000, 1000000 FROM generate_series(0, ${owners - 1}) n`;
  yield `INSERT INTO "Network" (id, "ownerId", vni, cidr, gateway)
    SELECT 'network_' || n, 'owner_' || n, n + 1, '10.' || (128 + n / 64) || '.' || (n % 64 * 4) || '.0/22', '10.' || (128 + n / 64) || '.' || (n % 64 * 4) || '.1'
    FROM generate_series(0, ${owners - 1}) n`;
  yield `INSERT INTO "Image" (id, name, digest, state, recipe, "virtualMiB", cmdline, "sizeBytes", parts, "createdAt")
    SELECT 'image_' || n, CASE n WHEN 0 THEN '${filledImage}' ELSE 'image' || n END, 'digest' || n, 'ready', '{}', ${each.overlayMiB}, 'root=/dev/vda', ${imageBytes},
      '{"disk":{"file":"file_d","sha256":"aa","sizeBytes":10},"kernel":{"file":"file_k","sha256":"bb","sizeBytes":10},"initrd":{"file":"file_i","sha256":"cc","sizeBytes":10}}', ${at} - interval '30 days'
    FROM generate_series(0, ${images - 1}) n`;
  yield `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "usedVcpus", "usedMemoryMiB", "usedDiskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt", "createdAt")
    SELECT ${hostName('n')}, '172.' || (16 + n / 65536) || '.' || (n / 256 % 256) || '.' || (n % 256), 'site', 'up',
      ${slots * each.vcpus}, ${slots * each.memoryMiB}, ${slots * (each.diskMiB + each.overlayMiB)},
      k * ${each.vcpus}, k * ${each.memoryMiB}, k * ${each.diskMiB + each.overlayMiB}, 'EPYC', 'kvm', 'QEMU 9', 'boot', ${at}, ${at} - interval '90 days' + n * interval '1 second'
    FROM generate_series(0, ${hosts - 1}) n, LATERAL (SELECT (${vms} - n + ${hosts - 1}) / ${hosts} AS k) used`;
  yield 'SELECT berth_list_machines()';
  yield `INSERT INTO "HostImage" ("hostId", "imageId", "usedAt")
    SELECT ${hostName('h')}, 'image_' || i, ${at} FROM generate_series(0, ${hosts - 1}) h, generate_series(0, ${images - 1}) i`;
  // Events are written with their numbers, so their partitions are there before.
  yield `DO $$ BEGIN WHILE (SELECT max(until) FROM "EventPartition") <= ${3 * ended + events} LOOP PERFORM berth_open_event_partition(); END LOOP; END $$`;
  yield* running(vms, hosts, at);
  yield* endedTasks(ended, owners, hosts, at);
  yield* money(ended, owners, at);
  yield* promised(promises, owners, hosts, at);
  yield `INSERT INTO "Event" (seq, id, type, subject, "ownerId", time, data)
    SELECT 3 * ${ended}::bigint + n + 1, 'filled/' || n, CASE n % 3 WHEN 0 THEN 'berth.task.accepted' WHEN 1 THEN 'berth.task.started' ELSE 'berth.task.succeeded' END,
      'task_f' || n, 'owner_' || (n % ${owners}), ${at} - interval '20 days' + n * interval '1 millisecond', '{"filled":true}'
    FROM generate_series(0, ${events - 1}) n`;
  yield `INSERT INTO "EventId" (id) SELECT id FROM "Event"`;
  yield `INSERT INTO "Measurement" (id, kind, "vmId", "fromId", "toId", "memoryMiB", "residentMiB", "dirtyMiBPerS", concurrency, seconds, "transferS", bytes, at)
    SELECT 'measurement_' || n, 'live', 'vm_' || n, ${hostName(`n % ${hosts}`)}, ${hostName(`(n + 1) % ${hosts}`)}, 1024, 500, 5, 1, 5 + n % 7, 4 + n % 7, 500000000, ${at} - n * interval '1 minute'
    FROM generate_series(0, 999) n`;
}

/** Best-effort work under way; the even ones stand alone. */
function* running(vms: number, hosts: number, at: string): Generator<string> {
  if (vms === 0) return;
  const series = `generate_series(0, ${vms - 1}) n`;
  // Their ends are spread over two days.
  const began = `${at} - interval '1 hour' - (n % 3600) * interval '1 second'`;
  yield `INSERT INTO "Lease" (id, "ownerId", kind, "durationS", preemptible, "startedAt", "runFrom", "leadMs", "createdAt")
    SELECT 'lease_' || n, ${owner}, 'bestEffort', 7200 + (n * 7919) % 172800, true, ${began}, ${began}, 8000 + n % 4000, ${began} FROM ${series}`;
  yield `INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "workflowAt", "createdAt", "placedAt", "startedAt")
    SELECT 'task_' || n, ${owner}, 'task' || n, '{"image":"${filledImage}","command":["true"],"timeoutS":600000}', 'running', 'lease_' || n, ${began}, ${began}, ${began}, ${began}
    FROM ${series} WHERE n % 2 = 1`;
  yield `INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "hostId", "homeId", generation, address, mac, boot, "taskId", node, "leaseId", "order",
      "placedAt", "workflowAt", "startedAt", "createdAt")
    SELECT 'vm_' || n, ${owner}, 'vm' || n, 'image_' || (n % ${images}), ${each.vcpus}, ${each.memoryMiB}, ${each.diskMiB}, ${each.overlayMiB}, 'running',
      ${hostName(`n % ${hosts}`)}, ${hostName(`n % ${hosts}`)}, 1, ip, 'mac' || n, 'warm', CASE n % 2 WHEN 1 THEN 'task_' || n END, CASE n % 2 WHEN 1 THEN 0 END, 'lease_' || n,
      CASE n % 2 WHEN 0 THEN '{}'::jsonb END, ${began}, ${began}, ${began}, ${began}
    FROM ${series}, LATERAL (SELECT '10.' || (128 + n / ${vmsPerOwner} / 64) || '.' || (n / ${vmsPerOwner} % 64 * 4 + (n % ${vmsPerOwner} + 2) / 256) || '.' || ((n % ${vmsPerOwner} + 2) % 256) AS ip) a`;
  yield `INSERT INTO "VmLoad" ("vmId", "residentMiB", "dirtyMiBPerS", "busyCpus", at) SELECT 'vm_' || n, 500, 5, 0.5, ${at} FROM ${series}`;
}

/** A tenth of them had their VM moved once. */
function* endedTasks(ended: number, owners: number, hosts: number, at: string): Generator<string> {
  if (ended === 0) return;
  const series = `generate_series(0, ${ended - 1}) n`;
  const of = `'owner_' || (n % ${owners})`;
  const began = `${at} - interval '1 day' - (${ended} - n) * interval '1 second'`;
  yield `INSERT INTO "Lease" (id, "ownerId", kind, "durationS", "startedAt", "runFrom", "leadMs", "tailMs", "endedAt", "createdAt")
    SELECT 'lease_e' || n, ${of}, 'bestEffort', 600, ${began}, ${began}, 8000, 3000, ${began} + interval '5 minutes', ${began} FROM ${series}`;
  yield `INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "exitCode", "workflowAt", "createdAt", "placedAt", "startedAt", "finishedAt", "cancelRequestedAt")
    SELECT 'task_e' || n, ${of}, 'ended' || n, '{"image":"${filledImage}","command":["true"]}', CASE WHEN n % 50 = 0 THEN 'cancelled' ELSE 'succeeded' END::"TaskState", 'lease_e' || n, 0,
      ${began}, ${began}, ${began}, ${began}, ${began} + interval '5 minutes', CASE WHEN n % 50 = 0 THEN ${began} END FROM ${series}`;
  yield `INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "hostId", "homeId", generation, address, mac, boot, "taskId", node, "leaseId", "placedAt", "startedAt", "endedAt", "createdAt")
    SELECT 'vm_e' || n, ${of}, 'node0', 'image_' || (n % ${images}), 1, 1024, 2048, 512, 'removed', ${hostName(`n % ${hosts}`)}, ${hostName(`n % ${hosts}`)}, 1, NULL, NULL, 'warm', 'task_e' || n, 0, 'lease_e' || n, ${began}, ${began},
      ${began} + interval '5 minutes', ${began} FROM ${series}`;
  yield `INSERT INTO "Migration" (id, "vmId", "ownerId", state, generation, mode, "fromId", "toId", vcpus, "memoryMiB", guest, "requestedBy", "createdAt", "startedAt", "committedAt", "finishedAt")
    SELECT 'migration_' || n, 'vm_e' || n, ${of}, 'succeeded', 1, 'live', ${hostName(`n % ${hosts}`)}, ${hostName(`(n + 1) % ${hosts}`)}, 1, 1024, 'answers', 'owner_0', ${began}, ${began}, ${began}, ${began}
    FROM ${series} WHERE n % 10 = 0 AND ${hosts} > 1`;
  yield `INSERT INTO "File" (id, "ownerId", name, state, "sizeBytes", sha256, "createdAt")
    SELECT 'file_' || n, ${of}, 'file' || n, 'ready', 1000, 'aa', ${began} FROM ${series}`;
  yield `INSERT INTO "Idempotency" ("ownerId", key, method, path, fingerprint, status, response, "createdAt")
    SELECT ${of}, 'key' || n, 'POST', '/v1/tasks', 'filled', 202, '""', ${at} - (n % 80000) * interval '1 second' FROM ${series}`;
  yield `INSERT INTO "Event" (seq, id, type, subject, "ownerId", time, data)
    SELECT 3 * n::bigint + k + 1, 'task_e' || n || '/' || k, (ARRAY['berth.task.accepted', 'berth.task.started', 'berth.task.succeeded'])[k + 1], 'task_e' || n, ${of}, ${began} + k * interval '1 minute', '{"filled":true}'
    FROM ${series}, generate_series(0, 2) k`;
}

/** Each ended task had its price held and captured; a fiftieth came by a key that is revoked. Its books are in order. */
function* money(ended: number, owners: number, at: string): Generator<string> {
  if (ended === 0) return;
  const series = `generate_series(0, ${ended - 1}) n`;
  const [of, account] = [`'owner_' || (n % ${owners})`, `'account_' || (n % ${owners})`];
  const [began, price] = [`${at} - interval '1 day' - (${ended} - n) * interval '1 second'`, 1000];
  const columns = 'id, kind, "ownerId", holder, name, currency, "lowerLimit", balance, "summedTo", "createdAt"';
  // The last entry of an owner is that of its last hold: task n has the entries 4 n + 1 to 4 n + 4.
  yield `INSERT INTO "Account" (${columns})
    SELECT 'account_' || o, 'owner'::"AccountKind", 'owner_' || o, 'owner_' || o, '', 'EUR', -1000000000000000,
      -${price} * k, 4 * (o + (k - 1) * ${owners}) + 1, ${at} - interval '30 days'
    FROM generate_series(0, ${Math.min(owners, ended) - 1}) o, LATERAL (SELECT (${ended} - o + ${owners - 1}) / ${owners} AS k) tasks
    UNION ALL SELECT 'account_revenue', 'site'::"AccountKind", NULL, '', 'revenue', 'EUR', NULL, ${price * ended}, ${4 * ended}, ${at} - interval '30 days'`;
  yield `INSERT INTO "Account" (${columns}, "closedAt")
    SELECT 'account_e' || n, 'hold', ${of}, ${of}, 'task_e' || n, 'EUR', 0, 0, 4 * n::bigint + 3, ${began}, ${began} + interval '5 minutes' FROM ${series}`;
  yield `INSERT INTO "Transfer" (id, kind, reason, subject, "idempotencyKey", postings, "createdAt")
    SELECT 'transfer_e' || n || '_' || k, (ARRAY['hold', 'capture'])[k]::"TransferKind", 'filled', 'task_e' || n, 'task_e' || n || '/' || k, 2,
      ${began} + k * interval '2 minutes' FROM ${series}, generate_series(1, 2) k`;
  yield `INSERT INTO "Entry" ("transferId", "accountId", currency, amount, balance, seq)
    SELECT 'transfer_e' || n || '_' || transfer, account, 'EUR', amount, balance, 4 * n::bigint + place
    FROM ${series}, LATERAL (VALUES
      (1, ${account}, -${price}, -${price}::bigint * (n / ${owners} + 1), 1), (1, 'account_e' || n, ${price}, ${price}, 2),
      (2, 'account_e' || n, -${price}, 0, 3), (2, 'account_revenue', ${price}, NULL, 4)) e (transfer, account, amount, balance, place)`;
  yield `SELECT setval('"Entry_seq_seq"', ${4 * ended})`;
  yield `INSERT INTO "ApiKey" (id, "ownerId", role, name, hash, "createdAt", "revokedAt")
    SELECT 'key_e' || n, ${of}, 'client', 'filled', 'hash' || n, ${began}, ${began} FROM ${series} WHERE n % 50 = 0`;
}

/** Two VMs each, for an hour, from tomorrow on: far from due. */
function* promised(promises: number, owners: number, hosts: number, at: string): Generator<string> {
  if (promises === 0) return;
  const series = `generate_series(0, ${promises - 1}) n`;
  const of = `'owner_' || (n % ${owners})`;
  const start = `date_trunc('second', ${at}) + interval '1 day' + n * interval '1 minute'`;
  const planned = `ARRAY[${hostName(`(2 * n) % ${hosts}`)}, ${hostName(`(2 * n + 1) % ${hosts}`)}]`;
  yield `INSERT INTO "Lease" (id, "ownerId", kind, "durationS", "startAt", "endAt", "plannedHosts", "createdAt")
    SELECT 'lease_p' || n, ${of}, 'reservation', 3600, ${start}, ${start} + interval '1 hour', ${planned}, ${at} FROM ${series}`;
  yield `INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId", "workflowAt", "createdAt")
    SELECT 'task_p' || n, ${of}, 'promised' || n, '{"image":"${filledImage}","command":["true"],"nodes":2}', 'queued', 'lease_p' || n, ${at}, ${at} FROM ${series}`;
  yield `INSERT INTO "Vm" (id, "ownerId", name, "imageId", vcpus, "memoryMiB", "diskMiB", "overlayMiB", state, "taskId", node, "leaseId", "createdAt")
    SELECT 'vm_p' || n || '_' || k, ${of}, 'node' || k, 'image_0', ${each.vcpus}, ${each.memoryMiB}, ${each.diskMiB}, ${each.overlayMiB}, 'pending', 'task_p' || n, k, 'lease_p' || n, ${at}
    FROM ${series}, generate_series(0, 1) k`;
}
