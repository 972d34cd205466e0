import type { HostId, ImageId, VmId } from '../model/ids.ts';
import type { ResolvedBase } from '../model/image.ts';
import type { ImageState } from '../model/states.ts';
import type { Refusal, TaskError, TimelineEntry } from '../model/task.ts';
import type { ImageRef, VmSpec } from '../model/vm.ts';
import type { RunCommand, StageIn, StoreImage } from './host.ts';
import type { VmRef } from './host-calls.ts';

/** An image's row, for the build saga. */
export interface BuildRecord {
  id: ImageId;
  name: string;
  owner: string;
  state: ImageState;
  base: ResolvedBase['kind'];
  timeoutS: number;
  vmId: VmId;
  /** Something of its VM may be on a host: a workflow that finds it so is not the build's first. */
  begun: boolean;
  /** Its owner has requested the cancellation; the request to the workflow may have been lost. */
  cancelRequested: boolean;
}

export type BuildPlacement = { placed: true; vm: VmSpec } | { placed: false; refusal: Refusal };

/** Arguments of the steps on the build's host, with URLs signed for the time that the step may take. */
export interface BuildStepArgs {
  stageIn: StageIn;
  run: RunCommand;
  store: StoreImage;
}

export type BuildOutcome =
  | { state: 'ready'; disk: { file: string; sha256: string; sizeBytes: number }; virtualMiB: number }
  | { state: 'failed'; error: TaskError };

/** What the name of a build's workflow consists of, and its argument. */
export interface BuildKey {
  id: ImageId;
  name: string;
  digest: string;
}

export type TemplatePlacement =
  | { kind: 'reserved'; vm: VmSpec }
  | { kind: 'left'; vm: VmId; generation: number }
  | { kind: 'waits'; reason: string };

export interface ImageLedger {
  recordImageCached(host: HostId, image: ImageId): Promise<void>;
  /** An image for one host to fetch: fresh URLs, and the peers that have it. Throws image-unknown. */
  issueImageRef(id: ImageId, host: HostId): Promise<ImageRef>;

  /** Loads a build, and records that it has a workflow. Throws not-found. */
  loadBuild(id: ImageId): Promise<BuildRecord>;
  /** Places the build's VM, or returns why it waits. Repeating it returns the same placement. Throws conflict after its end. */
  reserveBuild(id: ImageId): Promise<BuildPlacement>;
  /** Fresh signed URLs for a placed build. */
  issueBuildStepArgs(id: ImageId): Promise<BuildStepArgs>;
  recordBuildProgress(id: ImageId, timeline: TimelineEntry[]): Promise<void>;
  /**
   * Writes the build's end: the image is usable from this transaction on, or failed. It changes nothing when the image has
   * another VM by now.
   */
  finishBuild(id: ImageId, vmId: VmId, outcome: BuildOutcome, timeline: TimelineEntry[]): Promise<void>;
  /** Accepted builds whose workflow was never started. */
  listBuildsWithoutWorkflow(olderThanS: number): Promise<BuildKey[]>;
  /** Builds that have not ended so long after their cancellation was requested. */
  listBuildsToCancel(olderThanS: number): Promise<BuildKey[]>;

  /** Retired images of which something is left on a host or in the repository. */
  listImagesToSweep(): Promise<ImageId[]>;
  /** Hosts that have an image, as far as the ledger knows. */
  listImageHosts(id: ImageId): Promise<HostId[]>;
  /** The host no longer has a retired image. */
  recordImageRemoved(host: HostId, id: ImageId): Promise<void>;
  /** Removes the files of a retired image, except those that another image uses. */
  removeImageFiles(id: ImageId): Promise<void>;

  /**
   * Reserves capacity on a VM's host for a VM without an owner that becomes a template of the same kind, one at a time per
   * host. `left`: an earlier attempt left a VM there, to be removed first; `waits`: there is no capacity that no task waits for.
   */
  reserveTemplate(like: VmRef): Promise<TemplatePlacement>;
}
