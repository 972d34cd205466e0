/**
 * Names for statements that repeat, by which each connection keeps them parsed and planned: to plan a large one costs
 * PostgreSQL more than to run it. A name belongs to a text for ever, because connections remember it.
 */

/** Named texts: each connection keeps some tens of kilobytes of each that it has used. */
const mostNamed = 256;
/** Texts that were seen, and are not named yet: those that vary (a list of conditions) never are. */
const mostSeen = 1024;
/** How often a text comes before it is named. */
const namedAfter = 3;

/** They end the transaction, or begin it: there is nothing to plan. */
const frames = /^\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET)\b/i;
/** A statement that was planned can't return other columns later: an upgrade of the schema would break it in a process that runs. */
const allColumns = /\b(SELECT|RETURNING)\s+(\w+\.)?\*|,\s*\w+\.\*/i;

/** The empty name: the statement is not kept. */
type StatementNames = (statement: { sql: string }) => string;

const unnamed = '';

export function statementNames(): StatementNames {
  const names = new Map<string, string>();
  const seen = new Map<string, number>();
  return ({ sql }) => {
    const name = names.get(sql);
    if (name !== undefined) return name;
    if (names.size === mostNamed || frames.test(sql) || allColumns.test(sql)) return unnamed;
    const times = (seen.get(sql) ?? 0) + 1;
    if (times < namedAfter) {
      if (seen.size === mostSeen) seen.clear();
      seen.set(sql, times);
      return unnamed;
    }
    seen.delete(sql);
    const next = `berth_${names.size + 1}`;
    names.set(sql, next);
    return next;
  };
}
