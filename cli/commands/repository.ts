import { type Command, Option } from 'commander';
import { callJson, type Session } from '../client.ts';
import { printOne } from '../output.ts';

const path = '/v1/repository';
const reasons = ['other-site', 'ledger-older', 'ledger-restored', 'ledger-empty', 'share', 'operator'];

export function addRepositoryCommands(program: Command, { connect, output }: Session): Command {
  const repository = program.command('repository').description('show the repository, and turn its sweeps off and on (operators)');
  const change = async (json: object) => printOne(output(), await callJson(connect(), path, { method: 'PATCH', json }));

  repository
    .command('show', { isDefault: true })
    .description('show whether the repository is swept, and if not, why')
    .addHelpText('after', '\nExample:\n  berth repository show')
    .action(async () => printOne(output(), await callJson(connect(), path)));

  repository
    .command('sweeps')
    .description('turn sweeps off, or on again')
    .argument('<state>', 'on or off')
    .addOption(new Option('--accept <reason>', 'the reason for which they are off, once it is understood').choices(reasons))
    .addHelpText(
      'after',
      '\nExamples:\n  berth repository sweeps off\n  berth repository sweeps on --accept ledger-restored\n\nSee docs/repository.md before you accept a reason.',
    )
    .action(async (state: string, { accept }: { accept?: string }) =>
      change({ sweeps: state, ...(accept === undefined ? {} : { accept }) }),
    );
  return repository;
}
