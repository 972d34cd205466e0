/** In the order in which they are looked for. `unusual`: no VM waits, but the use is above what this host is used to. */
export const stressKinds = ['processors', 'memory', 'io', 'unusual'] as const;
export type StressKind = (typeof stressKinds)[number];

/** What a host's watchdog says of its load. */
export interface WatchVerdict {
  /** Whether to ask for help. */
  asks: boolean;
  kind: StressKind | null;
  /** 0 to 1: how likely the stress lasts as long again, by what this host's stresses did. */
  confidence: number;
  /** How much longer it is expected to last. */
  expectedS: number;
  seen: {
    points: number;
    /** The points above which help is asked for, and the use above which a sample counts as unusual. */
    spikeS: number;
    useLimit: number;
    stressedS: number;
    use: number;
    steal: number;
  };
}
