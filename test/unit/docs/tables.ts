/** The rows of every table of a Markdown text with the given columns. */
export function readTables(text: string, columns: readonly string[]): string[][] {
  const rows: string[][] = [];
  let inTable = false;
  for (const line of text.split('\n')) {
    const cells = line.startsWith('|') ? splitRow(line) : null;
    if (cells === null) inTable = false;
    else if (cells.join('|') === columns.join('|')) inTable = true;
    else if (inTable && !cells.every((cell) => /^-+$/.test(cell))) rows.push(cells);
  }
  return rows;
}

const splitRow = (line: string): string[] =>
  line
    .trim()
    .replace(/^\||\|$/g, '')
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());
