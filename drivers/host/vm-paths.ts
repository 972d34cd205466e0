import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import type { VmPaths } from '../ports/vm-store.ts';

/** The files of a VM in its folder, the same on every host. */
export function vmPathsIn(folder: string): VmPaths {
  return {
    folder,
    overlay: `${folder}/disk.qcow2`,
    data: `${folder}/data.raw`,
    console: `${folder}/console.log`,
    identitySocket: `${folder}/identity`,
    streamSocket: `${folder}/stream`,
    consoleSocket: `${folder}/console`,
    inputs: `${folder}/inputs`,
    memory: `${folder}/memory.save`,
    memoryPartial: `${folder}/memory.save.partial`,
    templateMemory: `${folder}/template.memory`,
    templateState: `${folder}/template.state`,
    seed: `${folder}/seed.iso`,
    flat: `${folder}/flat.qcow2`,
  };
}

/** Where a file that a cold copy transfers is; further disks are `extra-<index>`, in the order of their sizes. */
export function vmFilePath(paths: VmPaths, file: ColdCopyFile): string {
  return file === 'memory' || file === 'overlay' || file === 'data' ? paths[file] : `${paths.folder}/${file}.raw`;
}
