/** How far ahead a caller may plan, in days. Later times are typing errors, and years above 9999 are none to PostgreSQL. */
export const horizonDays = 366;

export const isBeyondHorizon = (ms: number, nowMs: number): boolean => ms > nowMs + horizonDays * 86_400_000;
