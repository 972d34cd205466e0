import type { HostFacts } from '../../model/host.ts';

export interface HostProbe {
  measure(): Promise<Omit<HostFacts, 'images'>>;
  accelerator(): Promise<'kvm' | 'qemu'>;
}
