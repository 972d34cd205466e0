import { type Command, Option } from 'commander';
import { type UsageLine, usageCloudEvent } from '../../../model/money/usage-lines.ts';
import { callJson, type Session, withRetry } from '../../client.ts';
import { print } from '../../output.ts';

interface UsagePage {
  items: UsageLine[];
  next: string;
  more: boolean;
}

const describe = ({ vm, provider, ...line }: UsageLine): string =>
  vm === null
    ? `${line.until}  ${line.owner}  ${line.repositoryByteSeconds} byte·s  ${line.portSeconds} port·s`
    : `${line.until}  ${vm}  ${provider}  ${line.vcpuSeconds} vCPU·s  ${line.memoryMiBSeconds} MiB·s of memory  ${line.diskMiBSeconds} of disk`;

/** `berth usage`. */
export function addUsageCommand(program: Command, { connect, output }: Session): void {
  program
    .command('usage')
    .description('what was used, oldest first, each moment once')
    .option('--after <cursor>', 'go on after this one; without it, from the first event on that is kept')
    .addOption(new Option('--format <format>', 'batches of CloudEvents, one a line').choices(['cloudevents']))
    .addHelpText(
      'after',
      '\nThe last line of standard error is the cursor to go on after.\n\nExamples:\n  berth usage\n  berth usage --after 12000 --format cloudevents',
    )
    .action(async ({ after, format }: { after?: string; format?: string }) => {
      const connection = connect();
      for (let cursor = after; ; ) {
        const query = new URLSearchParams(cursor === undefined ? {} : { after: cursor });
        const page = await withRetry(() => callJson<UsagePage>(connection, `/v1/usage?${query}`));
        if (format !== undefined && page.items.length > 0) print(output(), JSON.stringify(page.items.map(usageCloudEvent)));
        if (format === undefined)
          for (const line of page.items) print(output(), output().json ? JSON.stringify(line) : describe(line));
        cursor = page.next;
        if (page.more) continue;
        output().err.write(`${cursor}\n`);
        return;
      }
    });
}
