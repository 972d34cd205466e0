import type { HostFacts } from '../../model/host.ts';

export interface HostProbe {
  measure(): Promise<Omit<HostFacts, 'images'>>;
  /** This machine's clock, in ms since 1970. */
  clockMs(): number;
  /** When this machine was booted, in ms since 1970 by its clock. */
  bootedMs(): Promise<number>;
  accelerator(): Promise<'kvm' | 'qemu'>;
}
