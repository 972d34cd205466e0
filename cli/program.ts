import { Command } from 'commander';
import packageJson from '../package.json' with { type: 'json' };
import type { Session } from './client.ts';
import { addCalibrateCommand } from './commands/calibrate.ts';
import { addTrashCommands } from './commands/data/trash.ts';
import { addTreeCommands } from './commands/data/tree.ts';
import { addDrainCommands } from './commands/drains.ts';
import { addEventCommand } from './commands/events.ts';
import { addFileCommands } from './commands/files.ts';
import { addCopyCommand } from './commands/guest/cp.ts';
import { addExecCommands } from './commands/guest/exec.ts';
import { addForwardCommands } from './commands/guest/forward.ts';
import { addHostCommands } from './commands/hosts.ts';
import { addImageCommands } from './commands/images.ts';
import { addLeaseCommands } from './commands/leases.ts';
import { addLeverCommands } from './commands/levers.ts';
import { addBalancerCommands } from './commands/load/balancer.ts';
import { addLoadCommand, addTopCommands } from './commands/load/top.ts';
import { addMigrationCommands } from './commands/migrations.ts';
import { addAccountCommands } from './commands/money/accounts.ts';
import { addMarketCommands } from './commands/money/market.ts';
import { addPriceCommands } from './commands/money/prices.ts';
import { addStatementCommands } from './commands/money/statements.ts';
import { addUsageCommand } from './commands/money/usage.ts';
import { addOwnerCommands } from './commands/owners.ts';
import { addPortCommands } from './commands/ports.ts';
import { addRepositoryCommands } from './commands/repository.ts';
import { addReservationCommands } from './commands/reservations.ts';
import { addTaskCommands } from './commands/tasks.ts';
import { addVmCommands } from './commands/vms.ts';
import { addWebhookCommands } from './commands/webhooks.ts';

/** The options of `berth` itself. */
export interface GlobalOptions {
  api?: string;
  keyFile?: string;
  json?: boolean;
}

/** The whole command line; parsing it runs a command. Calls are made with what `sessionOf` makes of the global options. */
export function createProgram(sessionOf: (options: () => GlobalOptions) => Session): Command {
  const program = new Command('berth')
    .description('Runs tasks in VMs: a client of the HTTP API of a Berth site')
    .version(packageJson.version)
    .option('--api <url>', 'address of the API (default: $BERTH_API)')
    .option('--key-file <path>', 'file with the API key (default: $BERTH_KEY, or the file that $BERTH_KEY_FILE names)')
    .option('--json', 'print JSON')
    .showHelpAfterError('Add --help to see how it is called')
    // Before the subcommands, which take it over: errors are thrown, and do not end the process.
    .exitOverride()
    .addHelpText(
      'after',
      `
Examples:
  export BERTH_API=http://127.0.0.1:8080 BERTH_KEY_FILE=.berth/keys/client
  berth files put words.txt
  berth tasks submit --image debian-12 --input in/words=@words.txt --follow -- wc -w in/words
  berth tasks ls --state running
  berth vms create web --image debian-12 --user ann --ssh-key ~/.ssh/id_ed25519.pub --wait

Where an id is taken, a name may stand: berth vms show web. Where several have the name, the one that is not over is
meant; where that does not decide either, their ids are listed.

Exit codes: 0 done; 1 refused, or a task that failed (its own exit code, where it has one); 2 a command that is not right.`,
    );
  const session = sessionOf(() => program.opts<GlobalOptions>());

  addFileCommands(program, session);
  addTreeCommands(program, session);
  addTrashCommands(program, session);
  addTaskCommands(program, session);
  addLeaseCommands(program, session);
  const vms = addVmCommands(program, session);
  addExecCommands(program, session);
  addForwardCommands(program, session);
  addCopyCommand(program, session);
  addMigrationCommands(program, vms, session);
  addPortCommands(program, session);
  addImageCommands(program, session);
  const hosts = addHostCommands(program, session);
  addTopCommands(vms, hosts, session);
  addLoadCommand(vms, session);
  addBalancerCommands(program, session);
  addDrainCommands(program, hosts, session);
  addLeverCommands(program, hosts, session);
  addReservationCommands(program, session);
  addRepositoryCommands(program, session);
  addOwnerCommands(program, session);
  addAccountCommands(program, session);
  addPriceCommands(program, session);
  addStatementCommands(program, session);
  addUsageCommand(program, session);
  addMarketCommands(program, session);
  addCalibrateCommand(program, session);
  addEventCommand(program, session);
  addWebhookCommands(program, session);
  return program;
}
