import { type Command, Option } from 'commander';
import { type Connection, callEmpty, callJson, type Session } from '../client.ts';
import { resolveDrain, resolveMigration, resolveTask, resolveVm } from '../names.ts';
import { given } from '../options.ts';
import { print, printOne } from '../output.ts';

/** The kinds of records that can be ended by force: how one is found, and its path. */
const kinds: { group: string; argument: string; path: (connection: Connection, which: string) => Promise<string> }[] = [
  { group: 'tasks', argument: 'task', path: async (connection, which) => `/v1/tasks/${await resolveTask(connection, which)}` },
  { group: 'vms', argument: 'vm', path: async (connection, which) => `/v1/vms/${await resolveVm(connection, which)}` },
  {
    group: 'drains',
    argument: 'drain',
    path: async (connection, which) => `/v1/drains/${await resolveDrain(connection, which)}`,
  },
  { group: 'images', argument: 'image', path: async (_, which) => `/v1/images/${encodeURIComponent(which)}` },
  {
    group: 'migrations',
    argument: 'migration',
    path: async (connection, which) => `/v1/migrations/${await resolveMigration(connection, which)}`,
  },
];

interface ForceEndOptions {
  reason?: string;
  vmAt?: string;
}

/** `berth … force-end` and `berth hosts remove`: for operators, of what nothing else ends. */
export function addLeverCommands(program: Command, hosts: Command, { connect, output }: Session): void {
  for (const { group, argument, path } of kinds) {
    const command = program.commands
      .find((one) => one.name() === group)!
      .command('force-end')
      .description('end what nothing else ends; what it takes of hosts stays fenced until they confirm it (operators)')
      .argument(`<${argument}>`, 'its id or name')
      .option('--reason <text>', 'for those who read its error and the events');
    if (group === 'migrations')
      command.addOption(
        new Option('--vm-at <where>', 'where the VM is, as you have found it')
          .choices(['source', 'target'])
          .makeOptionMandatory(),
      );
    command
      .addHelpText('after', `\nExample:\n  berth ${group} force-end web${group === 'migrations' ? ' --vm-at source' : ''}`)
      .action(async (which: string, { reason, vmAt }: ForceEndOptions) => {
        const json = given({ reason, vmAt });
        printOne(
          output(),
          await callJson<object>(connect(), `${await path(connect(), which)}/force-end`, { method: 'POST', json }),
        );
      });
  }
  hosts
    .command('remove')
    .alias('rm')
    .description('remove a host from the site: one that was drained, or one that is lost')
    .argument('<host>', 'the host')
    .option('--declare-lost', 'it is gone for good: the refusal says what ends with it, and has a token')
    .option('--confirm <token>', 'that token')
    .addHelpText('after', '\nExample:\n  berth hosts remove host-b\n  berth hosts remove host-b --declare-lost --confirm 4f…')
    .action(async (host: string, { declareLost, confirm }: { declareLost?: boolean; confirm?: string }) => {
      const query = new URLSearchParams({
        ...(declareLost === true && { declaredLost: 'true' }),
        ...(confirm !== undefined && { confirm }),
      });
      const path = `/v1/hosts/${encodeURIComponent(host)}${query.size === 0 ? '' : `?${query}`}`;
      await callEmpty(connect(), path, { method: 'DELETE' });
      print(output(), output().json ? JSON.stringify({ removed: host }) : `${host} is removed`);
    });
}
