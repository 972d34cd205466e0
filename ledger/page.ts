/** A position in a list: that of the last row of the page before. */
export interface PagePosition {
  id: string;
  createdAt: Date;
}

/** A page of a list, newest first. */
export interface PageRequest {
  limit: number;
  /** null: the first page. */
  after: PagePosition | null;
}

type Present<F> = { [K in keyof F]?: Exclude<F[K], undefined> };

/**
 * The query of a page and one row more, which says whether another page follows; by (createdAt, id) descending.
 * @param filters equal values; one that is undefined filters nothing
 */
export function pageQuery<F extends object>({ limit, after }: PageRequest, filters: F) {
  const present = Object.fromEntries(Object.entries(filters).filter(([, value]) => value !== undefined)) as Present<F>;
  const position =
    after === null
      ? {}
      : {
          createdAt: { lte: after.createdAt },
          OR: [{ createdAt: { lt: after.createdAt } }, { createdAt: after.createdAt, id: { lt: after.id } }],
        };
  return {
    where: { AND: [present, position] },
    orderBy: [{ createdAt: 'desc' as const }, { id: 'desc' as const }],
    take: limit + 1,
  };
}
