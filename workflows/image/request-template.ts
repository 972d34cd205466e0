import { CancellationScope, log } from '@temporalio/workflow';
import { signalName, workflowId } from '../../model/temporal.ts';
import type { Boot, VmSpec } from '../../model/vm.ts';
import { startOrNotify } from '../durable/other-workflows.ts';
import { buildTemplates } from './build-templates.ts';

/** After a cold boot for lack of a template: requests one for later VMs. The VM's saga does not wait for it. */
export function requestTemplate(vm: VmSpec, boot: Boot, pace: number): void {
  if (boot.kind !== 'cold' || boot.why !== 'no-template') return;
  const id = workflowId.templates(vm.host);
  const request = () => startOrNotify(buildTemplates, id, [vm.host, pace, [vm]], signalName.templateRequested, vm);
  void CancellationScope.nonCancellable(request).catch((error: unknown) => {
    // The next VM that boots requests it again.
    log.info('A template could not be requested', { vmId: vm.id, error: String(error) });
  });
}
