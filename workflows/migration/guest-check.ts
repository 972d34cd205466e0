import { log } from '@temporalio/workflow';
import type { MigratedGuest } from '../../model/migration.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { persistForever } from '../durable/retry-forever.ts';
import type { MigrationRun } from './migration-run.ts';

/**
 * Asks the guest's agent, because the hypervisor's answer does not show that the guest works. It runs after the commit,
 * when nothing can be undone any more: a guest that does not answer is reported to its owner and to operators.
 */
export async function checkGuest(run: MigrationRun, answeredBefore: boolean): Promise<void> {
  const { route, vmId, progress } = run;
  const guest = await probeGuest(run, answeredBefore);
  if (guest === 'silent') {
    progress.setDetail('guest', `**the guest of ${vmId} is silent** at ${route.to.id} since it moved: its agent answered before`);
    log.warn('A guest is silent since it moved', { vmId, hostId: route.to.id });
  }
  await persistForever(run, 'the state of the guest', (ledger) => ledger.recordMigratedGuest(run.id, guest));
}

async function probeGuest({ route, vmId, pace, progress }: MigrationRun, answeredBefore: boolean): Promise<MigratedGuest> {
  try {
    if (await onHost(route.to.id, pace, 'throw').probeGuest(vmId, route.vm.generation)) return 'answers';
    return answeredBefore ? 'silent' : 'unknown';
  } catch (error) {
    progress.setDetail('guest', `the guest of ${vmId} can't be probed at ${route.to.id}: ${taskErrorOf(error).message}`);
    return 'unknown';
  }
}
