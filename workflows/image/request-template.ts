import { CancellationScope, log } from '@temporalio/workflow';
import type { VmRef } from '../../contracts/host-calls.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import type { Boot } from '../../model/vm.ts';
import { startOrNotify } from '../durable/other-workflows.ts';
import { buildTemplates } from './build-templates.ts';

/** After a cold boot for lack of a template: requests one for later VMs. The VM's saga does not wait for it. */
export function requestTemplate(vm: VmRef, boot: Boot, pace: number): void {
  if (boot.kind !== 'cold' || boot.why !== 'no-template') return;
  const { id: vmId, host, home, generation, vcpus, memoryMiB, image } = vm;
  const like: VmRef = { id: vmId, host, home, generation, vcpus, memoryMiB, image: { id: image.id, name: image.name } };
  const id = workflowId.templates(host);
  const request = () => startOrNotify(buildTemplates, id, [host, pace, [like]], signalName.templateRequested, like);
  void CancellationScope.nonCancellable(request).catch((error: unknown) => {
    // The next VM that boots requests it again.
    log.info('A template could not be requested', { vmId, error: String(error) });
  });
}
