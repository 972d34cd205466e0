import type { DomainConfig } from '../../contracts/domain.ts';
import type { ImageId } from '../../model/ids.ts';

/** Failures in a row after which a template is retired: one or two may be the host's. */
export const failuresToRetire = 3;

/** A machine that was booted from an image and saved with its memory: VMs with the same hardware start from it. */
export interface Template {
  image: ImageId;
  /** Identifies the machines that can start from it: size, hardware, hypervisor and processor. */
  key: string;
  /** The overlay at the time of the save; a VM gets a copy. */
  disk: string;
}

/** The files of a machine that becomes a template: all on the file system of the images. */
export interface TemplateParts {
  disk: string;
  /** Its memory, as a file that the guest writes to. */
  memory: string;
  /** Written by save: the state of its processors and devices. */
  state: string;
}

/**
 * Templates, in the folders of their images: complete, read-only, and removed with their image. A VM that starts from one
 * maps its memory copy-on-write, and shares the pages that it doesn't write with the template's other VMs.
 */
export interface Templates {
  computeKey(config: DomainConfig): Promise<string>;
  /** Counts as a use. `retired`: it failed too often, and is not to be made again. */
  find(image: ImageId, key: string): Promise<Template | 'none' | 'retired'>;
  /** Saves a running domain, which ends it, and makes a template of it; an existing template remains. */
  save(image: ImageId, key: string, config: DomainConfig, parts: TemplateParts): Promise<{ bytes: number }>;
  /**
   * Starts a domain from a template: a guest that continues where the template stopped, with the template's identity. Its
   * first disk must be a copy of the template's. `hypervisor` where it can't be restored; then there is no domain.
   */
  startDomain(config: DomainConfig, template: Template): Promise<void>;
  /** Records whether a start from a template succeeded. Returns whether that retires the template. */
  recordOutcome(template: Template, outcome: 'started' | { failed: string }): Promise<'kept' | 'retired'>;
}
