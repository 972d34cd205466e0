import { z } from 'zod';
import type { MachineListAnswer } from '../../contracts/host-calls.ts';

/** What becomes rules of a firewall is of the form that it has to have, whatever process answers. */
const answerSchema = z.object({
  version: z.string().min(1).max(128),
  addresses: z.array(z.ipv4()).nullable(),
  here: z.ipv4(),
});

/** The addresses of the site's machines as the API said them last: a list of thousands, sent when it has changed. */
export interface MachineList {
  /** Of the list that is kept, for the API to compare; `none` at first. */
  readonly version: string;
  /** Takes an answer. Returns false where it is none, or leaves out a list that is not the one that is kept. */
  take(answer: unknown): boolean;
  /** Without this host; null: none was taken yet. */
  others(): readonly string[] | null;
}

export function createMachineList(): MachineList {
  let version = 'none';
  let others: readonly string[] | null = null;
  return {
    get version() {
      return version;
    },
    take(value) {
      const answer: MachineListAnswer | undefined = answerSchema.safeParse(value).data;
      if (answer === undefined) return false;
      if (answer.addresses === null) return answer.version === version;
      version = answer.version;
      others = answer.addresses.filter((address) => address !== answer.here);
      return true;
    },
    others: () => others,
  };
}
