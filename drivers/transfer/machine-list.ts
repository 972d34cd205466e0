import type { MachineListAnswer } from '../../contracts/host-calls.ts';

/** The addresses of the site's machines as the API said them last: a list of thousands, sent when it has changed. */
export interface MachineList {
  /** Of the list that is kept, for the API to compare; `none` at first. */
  readonly version: string;
  /** Takes an answer. Returns false where it leaves out a list that is not the one that is kept. */
  take(answer: MachineListAnswer): boolean;
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
    take(answer) {
      if (answer.addresses === null) return answer.version === version;
      version = answer.version;
      others = answer.addresses.filter((address) => address !== answer.here);
      return true;
    },
    others: () => others,
  };
}
