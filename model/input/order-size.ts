import type { TaskSpec } from '../task.ts';

/** What a host is told of each input beside its path: a signed URL, a digest, a size. */
const inputOverheadBytes = 512;
/** What it is told of the VM itself: image, network, names. */
const vmBytes = 4096;

/** How many bytes the hosts fetch for all nodes of a task, at most. */
export const maxOrderBytes = 8 * 1024 * 1024;

/**
 * The patterns of a task as JSON, at most: they stand in its history, of which a value has at most 256 KiB. A control character takes
 * six bytes there; patterns without any never come near.
 */
export const maxPatternsJsonBytes = 128 * 1024;

/** An upper estimate of what the hosts are told for a task: each node gets the whole of it. */
export function orderBytes({ nodes, command, env, inputs, outputs }: Omit<TaskSpec, 'lease' | 'timeoutS'>): number {
  const node =
    Buffer.byteLength(JSON.stringify({ command, env, inputs, outputs })) + inputs.length * inputOverheadBytes + vmBytes;
  return nodes * node;
}
