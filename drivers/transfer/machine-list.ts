import { z } from 'zod';
import type { MachineListAnswer } from '../../contracts/host-calls.ts';
import { defaultLoadSettings, type LoadSettings, loadLimits } from '../../model/load/load.ts';

/** What becomes rules of a firewall is of the form that it has to have, whatever process answers. */
const answerSchema = z.object({
  version: z.string().min(1).max(128),
  addresses: z.array(z.ipv4()).nullable(),
  here: z.ipv4(),
  load: z
    .object({
      heartbeatS: z.number().min(loadLimits.heartbeatS.least).max(loadLimits.heartbeatS.most),
      asksForHelp: z.boolean(),
    })
    .optional(),
});

/**
 * The addresses of the site's machines as the API said them last: a list of thousands, sent when it has changed. With them comes
 * what this host does about its load.
 */
export interface MachineList {
  /** Of the list that is kept, for the API to compare; `none` at first. */
  readonly version: string;
  /** Takes an answer. Returns false where it is none, or leaves out a list that is not the one that is kept. */
  take(answer: unknown): boolean;
  /** Without this host; null: none was taken yet. */
  others(): readonly string[] | null;
  /** Until it is asked for again: so long a new host or edge may be unknown to guests on other hosts. */
  intervalMs(): number;
  /** As said last; defaults at first. */
  load(): LoadSettings;
}

const leastIntervalMs = 10_000;
/** So that all hosts of a site ask a hundred times a second at most, however many they are. */
const intervalMsPerMachine = 10;

export function createMachineList(): MachineList {
  let version = 'none';
  let others: readonly string[] | null = null;
  let load = defaultLoadSettings;
  return {
    get version() {
      return version;
    },
    take(value) {
      const answer: MachineListAnswer | undefined = answerSchema.safeParse(value).data;
      if (answer === undefined) return false;
      load = answer.load ?? load;
      if (answer.addresses === null) return answer.version === version;
      version = answer.version;
      others = answer.addresses.filter((address) => address !== answer.here);
      return true;
    },
    others: () => others,
    intervalMs: () => Math.max(leastIntervalMs, intervalMsPerMachine * (others?.length ?? 0)),
    load: () => load,
  };
}
