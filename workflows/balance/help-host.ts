import { condition, continueAsNew, defineSignal, setHandler, sleep, uuid4 } from '@temporalio/workflow';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import type { DrainMove } from '../../model/drain.ts';
import type { HostId } from '../../model/ids.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import { signalName } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { Backoff } from '../durable/backoff.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { Saga } from '../durable/saga.ts';
import { runStep, type Step } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { startMigration } from '../migration/start-migration.ts';

const helpRequestedSignal = defineSignal<[WatchVerdict]>(signalName.helpRequested);

interface HelpRun {
  readonly id: string;
  readonly host: HostId;
  readonly verdict: WatchVerdict;
  readonly ledger: LedgerActivities;
  readonly progress: Progress;
  readonly pace: number;
  offered: boolean;
  moves: DrainMove[];
}

/** The exchange between a host that asks for help and the others, in its order. */
export const helpSteps: readonly Step<HelpRun>[] = [
  {
    name: 'offers',
    does: 'decides which VMs may leave, and holds the capacity that other hosts offer for them, for a minute',
    undoneBy: 'closeHelp, which releases it; after a minute it is released whatever happens',
    act: async (run) => {
      const { offered, summary } = await run.ledger.openHelp(run.id, run.host, run.verdict);
      run.offered = offered;
      run.progress.setDetail('decision', `**${run.host}** at ${isoNow()}: ${summary}`);
    },
    undo: (run) => run.ledger.closeHelp(run.id, 'it was ended before its moves had'),
  },
  {
    name: 'take',
    does: 'takes the best offer for each VM as a migration, and releases the others, in one transaction',
    undoneBy: 'nothing: the migrations are on their own from then on, and are done or undone',
    act: async (run) => {
      if (run.offered) run.moves = await run.ledger.takeOffers(run.id);
    },
    undo: null,
  },
  {
    name: 'move',
    does: 'starts the migrations, and waits until they have ended',
    undoneBy: 'nothing, as above',
    act: async (run) => {
      for (const { migration, vm, generation } of run.moves)
        await startMigration({ id: migration, vmId: vm, generation }, run.pace);
      const backoff = new Backoff(timing(run.pace).helpBackoff);
      while (run.moves.length > 0 && !(await run.ledger.hasSettled(run.id))) await sleep(backoff.next());
    },
    undo: null,
  },
];

/**
 * Answers a host's requests for help, one at a time. It ends when it has answered, and measured what came of it; a request that
 * comes meanwhile is answered next.
 * @param requested the request that is left from before it continued as new
 */
export async function helpHost(host: HostId, pace = 1, requested: WatchVerdict | null = null): Promise<void> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [host] });
  const requests = new Requests(requested);
  const anotherRequest = () => condition(() => requests.latest !== null, timing(pace).helpMeasureMs);
  setHandler(helpRequestedSignal, (verdict) => requests.add(verdict));
  await anotherRequest();
  for (let verdict = requests.take(); verdict !== null; verdict = requests.take()) {
    const run: HelpRun = { id: uuid4(), host, verdict, ledger: onLedger(pace), progress, pace, offered: false, moves: [] };
    await answer(run, anotherRequest);
    if (isHistoryLong() && requests.latest !== null) await continueAsNew<typeof helpHost>(host, pace, requests.latest);
  }
}

/** Of several requests the latest says what the host is like now. */
class Requests {
  #latest: WatchVerdict | null;

  constructor(first: WatchVerdict | null) {
    this.#latest = first;
  }

  get latest(): WatchVerdict | null {
    return this.#latest;
  }

  add(verdict: WatchVerdict): void {
    this.#latest = verdict;
  }

  take(): WatchVerdict | null {
    const taken = this.#latest;
    this.#latest = null;
    return taken;
  }
}

/** @param measured resolves when the effect can be measured */
async function answer(run: HelpRun, measured: () => Promise<unknown>): Promise<void> {
  const saga = new Saga();
  try {
    for (const step of helpSteps) await runStep(saga, step, run);
    if (!run.offered) return;
    if (run.moves.length > 0) await measured();
    await run.ledger.closeHelp(run.id, null);
  } catch (error) {
    run.progress.setDetail('failed', `the request at ${isoNow()} failed: ${taskErrorOf(error).message}`);
    await saga.unwind();
    throw error;
  }
}
