import { sleep } from '@temporalio/workflow';
import type { MigratedOut, SeenMoving } from '../activities/host/contract.ts';
import type { HostId } from '../model/ids.ts';
import { decideMigration, type MigrationAction, sourceView, targetView } from '../model/migration.ts';
import { taskErrorOf } from './failure.ts';
import type { Move } from './migrate-vm.ts';
import { onHost } from './on-host.ts';
import { waits } from './timeouts.ts';

export type Settled = 'committed' | 'stayed' | 'lost';

/**
 * Asks both hosts what they have until the table says where the VM is, and does on the way what the table is certain
 * of. For ever, if need be: what isn't known is touched by nobody, and after a while an operator hears of it.
 * @param end ends what may have been begun at the source; what is seen counts only once it has succeeded. null: it ended.
 * @param seenOnTheWay what the source's host saw of both already, as the first look; null: both are to be asked
 */
export async function settleMigration(
  move: Move,
  end: (() => Promise<boolean>) | null,
  seenOnTheWay: MigratedOut['seen'] = null,
): Promise<Settled> {
  const { first, longest } = waits(move.pace).unclearPause;
  const unclearFrom = Date.now();
  let told = false;
  let over = end === null;
  if (over && seenOnTheWay !== null) {
    const from = { domain: seenOnTheWay.from, job: null };
    const { action } = judge(move, from, { domain: seenOnTheWay.to, job: null });
    if (action === 'committed') return action;
  }
  for (let pause = first; ; ) {
    if (end !== null && !over) over = await end();
    const { action, seen }: Look = over ? await look(move) : { action: 'observe', seen: `${move.place.from.id}: unknown` };
    if (action === 'stayed' || action === 'lost' || action === 'committed') return action;
    const { done, refusal } = await acted(move, action);
    if (done) continue;
    if (!told && (action === 'alarm' || Date.now() - unclearFrom >= waits(move.pace).unclearPatience)) {
      told = true;
      await stick(move, action, refusal === null ? seen : `${seen}; ${action}: ${refusal}`);
    }
    await sleep(pause);
    pause = Math.min(pause * 2, longest);
  }
}

interface Look {
  action: MigrationAction;
  seen: string;
}

/** Both at once, each with a limit: a host that doesn't answer is `unknown`, whatever the other says. */
async function look(move: Move): Promise<Look> {
  const { place, vmId, pace, progress } = move;
  const ask = async (host: HostId): Promise<SeenMoving | 'unknown'> => {
    try {
      return await onHost(host, pace, 'throw').observeMoving(vmId);
    } catch (error) {
      progress.say(`seen ${host}`, `${host} can't say: ${taskErrorOf(error).message}`);
      return 'unknown';
    }
  };
  const [from, to] = await Promise.all([ask(place.from.id), ask(place.to.id)]);
  return judge(move, from, to);
}

/** What the table says to what was seen. */
function judge({ place, progress }: Move, from: SeenMoving | 'unknown', to: SeenMoving | 'unknown'): Look {
  const source = sourceView(from === 'unknown' ? from : from.domain);
  const target = targetView(to === 'unknown' ? to : to.domain);
  const job = from === 'unknown' ? 'unknown' : from.job?.active === true ? 'active' : 'none';
  const action = decideMigration(source, target, job);
  const seen = `${place.from.id}: ${source}, ${place.to.id}: ${target}, job: ${job}`;
  progress.say('seen', `${seen}, so: ${action}`);
  return { action, seen };
}

/** Whether there was something to do that the table is certain of, and it could be done now; or why it could not. */
interface Acted {
  done: boolean;
  refusal: string | null;
}

async function acted({ source, target, place, vmId, progress }: Move, action: MigrationAction): Promise<Acted> {
  const here = place.sourceGeneration;
  const there = place.vm.generation;
  const acts: Partial<Record<MigrationAction, () => Promise<unknown>>> = {
    resumeTarget: () => target.resumeHere(vmId, there),
    removeTarget: () => target.dropCopy(vmId, there),
    resumeSource: () => source.resumeHere(vmId, here),
    removeSource: () => source.dropCopy(vmId, here),
  };
  const act = acts[action];
  if (act === undefined) return { done: false, refusal: null };
  try {
    await act();
    return { done: true, refusal: null };
  } catch (error) {
    // What it did is seen at the next look.
    const refusal = taskErrorOf(error).message;
    progress.say('act', `${action}: ${refusal}`);
    return { done: false, refusal };
  }
}

async function stick({ ledger, id, vmId, place, progress }: Move, action: MigrationAction, seen: string): Promise<void> {
  const why =
    action === 'alarm'
      ? `both hosts have a copy that could run (${seen}). Neither is touched. Find out which one is right, and end the other by hand`
      : `it can't be known where it runs (${seen}). It is asked again for ever: bring the silent host back, or end what refuses`;
  progress.mark({ state: 'stuck' });
  progress.say('stuck', `**${vmId} is stuck** between ${place.from.id} and ${place.to.id}: ${why}`);
  await ledger.stickMigration(id, { code: 'ambiguous', message: `Moving ${vmId}: ${why}` });
}
