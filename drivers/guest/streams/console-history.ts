import { open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { EarlierConsole } from '../../../contracts/host-migration.ts';
import type { VmId } from '../../../model/ids.ts';
import type { Logger } from '../../../model/log.ts';
import { systemClock } from '../../host/clock.ts';
import { exists, listNames, makeFolder, messageOf, readText, replaceAtomically, statOrNull, syncFile } from '../../host/files.ts';
import { createKeyedSerializer } from '../../host/keyed-serializer.ts';
import { pollUntil } from '../../host/poll-until.ts';
import type { ConsoleHistory } from '../../ports/streams.ts';
import { ConsoleLog, earlierConsolePath, ownConsolePaths } from './console-log.ts';
import { maxHeaderBytes, readSegments } from './earlier-console.ts';

/** How long a history is kept for the VM's new host, and expected there. */
const retentionMs = 24 * 3600 * 1000;
const sweepEveryMs = 3600 * 1000;
const firstWaitMs = 1000;
const longestWaitMs = 60_000;
/** How long a client waits for the history, and how often clients do. */
const arrivalMs = 2000;
const arrivalEveryMs = 10_000;
/** virtlogd may be behind when a domain has ended; a guest that was silent by then needs no wait. */
const settledMs = 150;
const settlePollMs = 30;

const Expected = z.strictObject({ address: z.string().max(64), generation: z.int().min(0) });

interface Expectation {
  from: EarlierConsole;
  sinceMs: number;
  nextMs: number;
  waitMs: number;
  /** Clients wait for it together, and then not for a while. */
  awaited: { sinceMs: number; end: Promise<unknown> } | null;
}

interface ConsoleHistoryOptions {
  root: string;
  host: string;
  pathOf: (vmId: string) => string;
  listIds: () => Promise<VmId[]>;
  /** Copies a file of another host to this one, within seconds; throws where it can't. */
  copy: (from: { address: string; path: string }, destination: string) => Promise<void>;
  log: Logger;
}

/**
 * The histories of consoles. A host that a VM has left keeps one as a file, which the VM's new host fetches, however often either
 * worker is killed: what is expected is in a file beside the console's log.
 */
export async function openConsoleHistory(options: ConsoleHistoryOptions): Promise<ConsoleHistory & { close(): void }> {
  const { root, host, pathOf, listIds, copy, log } = options;
  const kept = join(root, 'consoles');
  const keptPath = (vmId: string, generation: number): string => join(kept, `${vmId}.${generation}`);
  const expectedPath = (vmId: string): string => `${pathOf(vmId)}.expected`;
  const serialize = createKeyedSerializer<string>();
  const expected = new Map<string, Expectation>();

  async function forget(vmId: string): Promise<void> {
    expected.delete(vmId);
    await rm(expectedPath(vmId), { force: true });
  }

  /** Nothing of it is here before all of it is. */
  async function fetch(vmId: string, { address, generation }: EarlierConsole): Promise<void> {
    const partial = join(root, 'staging', `${vmId}.console.partial`);
    try {
      await copy({ address, path: keptPath(vmId, generation) }, partial);
      const { size } = await stat(partial);
      if (readSegments(await readBeginning(partial), size) === null) {
        log.warn({ vmId, address, size }, 'the history of a console is damaged: it is not used');
        return;
      }
      await syncFile(partial);
      await rename(partial, earlierConsolePath(pathOf(vmId)));
    } finally {
      await rm(partial, { force: true });
    }
  }

  /** One attempt. @returns whether nothing is expected any more */
  async function attempt(vmId: string): Promise<boolean> {
    const found = expected.get(vmId);
    if (found === undefined) return true;
    // With its folder goes what a VM expects.
    if (!(await exists(expectedPath(vmId)))) return expected.delete(vmId);
    try {
      await fetch(vmId, found.from);
      await forget(vmId);
      return true;
    } catch (error) {
      if (Date.now() - found.sinceMs < retentionMs) return false;
      log.warn({ vmId, address: found.from.address, why: messageOf(error) }, 'the history of a console did not come');
      await forget(vmId);
      return true;
    }
  }

  async function keep(vmId: string, generation: number): Promise<void> {
    const console = pathOf(vmId);
    await settle(console);
    await makeFolder(kept);
    const path = keptPath(vmId, generation);
    await replaceAtomically(path, await new ConsoleLog(console, host).pack());
    const older = (await listNames(kept)).filter((name) => name.startsWith(`${vmId}.`) && join(kept, name) !== path);
    for (const name of older) await rm(join(kept, name), { force: true });
  }

  async function sweep(): Promise<void> {
    for (const name of await listNames(kept)) {
      const found = await statOrNull(join(kept, name));
      if (found !== null && Date.now() - found.mtimeMs > retentionMs) await rm(join(kept, name), { force: true });
    }
  }

  for (const vmId of await listIds()) {
    const text = await readText(expectedPath(vmId));
    const from = text === null ? undefined : Expected.safeParse(JSON.parse(text)).data;
    if (from === undefined) continue;
    const { mtimeMs } = await stat(expectedPath(vmId));
    expected.set(vmId, { from, sinceMs: mtimeMs, nextMs: 0, waitMs: firstWaitMs, awaited: null });
  }

  let sweptMs = 0;
  let busy = false;
  const timer = setInterval(async () => {
    if (busy) return;
    busy = true;
    try {
      const due = [...expected].filter(([, { nextMs }]) => nextMs <= Date.now());
      for (const [vmId, expectation] of due) {
        await serialize(vmId, () => attempt(vmId));
        expectation.waitMs = Math.min(longestWaitMs, expectation.waitMs * 2);
        expectation.nextMs = Date.now() + expectation.waitMs;
      }
      if (Date.now() - sweptMs > sweepEveryMs) {
        sweptMs = Date.now();
        await sweep();
      }
    } catch (error) {
      log.error({ err: error }, 'the histories of consoles could not be looked after');
    }
    busy = false;
  }, firstWaitMs).unref();

  return {
    expect: (vmId, from) =>
      serialize(vmId, async () => {
        await forget(vmId);
        const console = pathOf(vmId);
        // What it wrote here before it left is older, and in the history.
        for (const path of [...ownConsolePaths(console), earlierConsolePath(console)]) await rm(path, { force: true });
        if (from === null) return;
        const now = Date.now();
        await replaceAtomically(expectedPath(vmId), JSON.stringify(from));
        expected.set(vmId, { from, sinceMs: now, nextMs: now + firstWaitMs, waitMs: firstWaitMs, awaited: null });
      }),
    leave: (vmId, forGeneration) =>
      serialize(vmId, async () => {
        try {
          if (forGeneration !== null) {
            // The last chance: nobody can fetch it after this host.
            await attempt(vmId);
            await keep(vmId, forGeneration);
          }
          await forget(vmId);
        } catch (error) {
          log.warn({ vmId, why: messageOf(error) }, 'the history of a console could not be kept');
        }
      }),
    async arrived(vmId) {
      const found = expected.get(vmId);
      if (found === undefined) return;
      const now = Date.now();
      if (found.awaited === null || now - found.awaited.sinceMs > arrivalEveryMs) {
        const probe = async (): Promise<true | null> => (await serialize(vmId, () => attempt(vmId))) || null;
        found.awaited = { sinceMs: now, end: pollUntil(systemClock, { pollMs: 100, deadlineMs: arrivalMs }, probe) };
      }
      await found.awaited.end;
    },
    close: () => clearInterval(timer),
  };
}

async function settle(console: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < settledMs; waitedMs += settlePollMs) {
    const found = await statOrNull(console);
    if (found === null || Date.now() - found.mtimeMs > settledMs) return;
    await systemClock.sleep(settlePollMs);
  }
}

async function readBeginning(path: string): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(maxHeaderBytes), 0, maxHeaderBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
