import type { Command } from 'commander';
import { callEmpty, list, postOnce, type Session } from '../../client.ts';
import { given, wholeNumber } from '../../options.ts';
import { printOne, printRows, sizeOf } from '../../output.ts';
import { duration } from '../../times.ts';

interface Deletion {
  id: string;
  path: string;
  reason: string;
  entries: number;
  sizeBytes: number;
  purgeAt: string;
  createdAt: string;
}

interface ExpiryRule {
  id: string;
  prefix: string;
  afterS: number;
}

function addExpiryCommands(program: Command, { connect, output }: Session): void {
  const rules = program.command('expiry').description('rules by which files of the tree are deleted when they are old');

  rules
    .command('ls')
    .description('list the rules')
    .addHelpText('after', '\nExample:\n  berth expiry ls')
    .action(async () => {
      printRows(output(), await list<ExpiryRule>(connect(), '/v1/expiry-rules', {}, 200), {
        id: (rule) => rule.id,
        after: (rule) => `${rule.afterS} s`,
        prefix: (rule) => rule.prefix,
      });
    });

  rules
    .command('add')
    .description('delete files when they are that old; of several rules the longest prefix holds')
    .argument('<prefix>', 'what their paths begin with; a folder ends with /')
    .argument('<age>', 'such as 12h or 30d', duration)
    .addHelpText('after', '\nExample:\n  berth expiry add scratch/ 7d')
    .action(async (prefix: string, afterS: number) => {
      printOne(output(), await postOnce<ExpiryRule>(connect(), '/v1/expiry-rules', { prefix, afterS }));
    });

  rules
    .command('rm')
    .description('delete rules')
    .argument('<id...>', 'of the rules')
    .addHelpText('after', '\nExample:\n  berth expiry rm rule_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (ids: string[]) => {
      for (const id of ids) await callEmpty(connect(), `/v1/expiry-rules/${encodeURIComponent(id)}`, { method: 'DELETE' });
    });
}

export function addTrashCommands(program: Command, session: Session): void {
  const { connect, output } = session;
  const trash = program.command('trash').description('what was deleted from the tree, or replaced there');

  trash
    .command('ls')
    .description('list it, newest first')
    .option('--path <path>', 'what was at this path: its earlier versions')
    .option('--limit <n>', 'how many', wholeNumber, 50)
    .addHelpText('after', '\nExample:\n  berth trash ls --path reports/2026.csv')
    .action(async ({ path, limit }: { path?: string; limit: number }) => {
      printRows(output(), await list<Deletion>(connect(), '/v1/trash', { ...(path !== undefined && { path }) }, limit), {
        id: (deletion) => deletion.id,
        reason: (deletion) => deletion.reason,
        at: (deletion) => deletion.createdAt,
        until: (deletion) => deletion.purgeAt,
        entries: (deletion) => deletion.entries,
        size: (deletion) => sizeOf(deletion.sizeBytes),
        path: (deletion) => deletion.path,
      });
    });

  trash
    .command('restore')
    .description('put it back')
    .argument('<id>', 'of the deletion')
    .option('--to <path>', 'default: where it was')
    .option('--replace', 'a file that is there goes into the trash')
    .addHelpText('after', '\nExample:\n  berth trash restore deletion_01jd7x3v8ve5hb1f5wwfb2x5r1 --to reports/old.csv')
    .action(async (id: string, { to, replace }: { to?: string; replace?: boolean }) => {
      const path = `/v1/trash/${encodeURIComponent(id)}/restore`;
      printOne(output(), await postOnce(connect(), path, given({ to, replace })));
    });

  trash
    .command('rm')
    .description('delete it for good')
    .argument('<id...>', 'of the deletions')
    .addHelpText('after', '\nExample:\n  berth trash rm deletion_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (ids: string[]) => {
      for (const id of ids) await callEmpty(connect(), `/v1/trash/${encodeURIComponent(id)}`, { method: 'DELETE' });
    });

  addExpiryCommands(program, session);
}
