import type { DomainConfig } from '../../contracts/domain.ts';
import type { ImageId } from '../../model/ids.ts';

/** A machine that was booted once from an image and saved with its memory: what others of its kind start from. */
export interface Template {
  image: ImageId;
  /** Which machines start from it: their size, hardware, hypervisor and processor. */
  key: string;
  /** The overlay as it was at that moment; a VM gets a copy. */
  disk: string;
}

/** Where a machine that becomes a template has its parts: all on the disk that holds the images. */
export interface TemplateParts {
  disk: string;
  /** Its memory, as a file that its guest writes to. */
  memory: string;
  /** To be written: the state of its processors and devices. */
  state: string;
}

/**
 * Templates, beneath their images: complete, sealed, and gone with their image. What starts from one maps its memory and
 * copies each page at the first write, so that it shares the rest with its siblings.
 */
export interface Templates {
  computeKey(config: DomainConfig): Promise<string>;
  /** Counts as a use. `retired`: it failed too often, and no other is to be made. */
  find(image: ImageId, key: string): Promise<Template | 'none' | 'retired'>;
  /** Saves a running domain, which ends with that, and makes a template of it; one that is there already stays. */
  save(image: ImageId, key: string, config: DomainConfig, parts: TemplateParts): Promise<{ bytes: number }>;
  /**
   * Starts a domain from a template: a guest that runs where the template stopped, with the template's identity. Its
   * first disk must be a copy of the template's. `hypervisor` when it can't be restored; then there is no domain.
   */
  startDomain(config: DomainConfig, template: Template): Promise<void>;
  /** A guest that started from it came up, or didn't. Returns whether that was one failure too many. */
  recordOutcome(template: Template, outcome: 'started' | { failed: string }): Promise<'kept' | 'retired'>;
  list(): Promise<{ image: ImageId; key: string; bytes: number }[]>;
}
