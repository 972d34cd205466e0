/** Why the repository is not swept until an operator decides. */
export const sweepHolds = ['other-site', 'ledger-older', 'ledger-restored', 'ledger-empty', 'share', 'operator'] as const;
export type SweepHold = (typeof sweepHolds)[number];

/** What each hold means, for logs and for operators. */
export const sweepHoldTexts: Readonly<Record<SweepHold, string>> = {
  'other-site': 'the repository is that of another site than the ledger',
  'ledger-older': 'the repository has seen a later state of this ledger: the ledger was restored from a backup',
  'ledger-restored': 'the ledger is in another database than before: it was restored, moved or promoted',
  'ledger-empty': 'the ledger has no file, and the repository has some',
  share: 'more of the repository than BERTH_SWEEP_MAX_SHARE has no row in the ledger',
  operator: 'an operator has turned it off',
};

/** The copy of the ledger's site that lies in the repository. */
export interface RepositoryMark {
  site: string;
  mark: number;
}

/** What a sweep found that decides about a hold. */
export interface SweepFindings {
  /** null: the repository has none yet. */
  mark: RepositoryMark | null;
  /** Files and logs of the repository, and how many of them no row names. Not counted where the mark decides. */
  kept?: number;
  orphans?: number;
}
