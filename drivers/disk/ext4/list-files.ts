import { closeSync, openSync } from 'node:fs';
import type { ListedEntry, ManifestLink } from '../../../model/outputs/manifest.ts';
import { escapeName, outputPathBytes, symbolsOf } from '../../../model/outputs/names.ts';
import { type SelectedFolder, Selection } from '../../../model/outputs/patterns.ts';
import { noneSkipped, type SkippedFile, type SkipReason, skip } from '../../../model/outputs/skipped.ts';
import type { DiskFile, DiskListing } from '../../ports/disk-tool.ts';
import { BudgetSpent, type ReadBudget, Spending } from './budget.ts';
import { readExtents } from './extents.ts';
import { type Entry, FolderIndex, readFolder } from './folders.ts';
import { Damage, Ext4Image, type Inode, refused } from './image.ts';
import { readJournal } from './journal.ts';
import { followLink, readTarget } from './links.ts';

const rootInode = 2;

/**
 * The regular files that patterns select. Only folders that a pattern can lead into are read. What can't be taken is skipped
 * with its reason, and so is the rest once the budget is spent. Throws `outputs-refused` where there is no file system.
 */
export function listSelected(path: string, patterns: readonly string[], budget: ReadBudget): DiskListing {
  const fd = openSync(path, 'r');
  try {
    return new FileLister(fd, budget).list(new Selection(patterns).root());
  } finally {
    closeSync(fd);
  }
}

class FileLister {
  readonly #spending: Spending;
  readonly #image: Ext4Image;
  readonly #index: FolderIndex;
  readonly #files: DiskFile[] = [];
  readonly #selectedFolders: ListedEntry[] = [];
  readonly #links: ManifestLink[] = [];
  readonly #matched = new Set<string>();
  readonly #skipped = noneSkipped();
  /** Folders that were entered: a disk that a guest made may have one in two places, or in itself. */
  readonly #entered = new Set<number>();
  /** From the root to the folder that is read. */
  readonly #folders: Inode[] = [];
  /** The folder that is read, for the row of a spent budget. */
  #reading = '';
  /** Files beyond the limit of files: one row for all of them. */
  #beyond = 0;

  constructor(fd: number, budget: ReadBudget) {
    this.#spending = new Spending(budget);
    this.#image = new Ext4Image(fd, this.#spending);
    this.#index = new FolderIndex(this.#image, this.#spending);
  }

  list(selection: SelectedFolder): DiskListing {
    try {
      this.#readJournal();
      this.#attempt('', () => this.#visitFolder(this.#image.readInode(rootInode), '', selection));
    } catch (error) {
      if (!(error instanceof BudgetSpent)) throw error;
      this.#skip(this.#reading, 'budget-spent', `${error.message}; what follows on the disk was not found`);
    }
    if (this.#beyond > 0)
      skip(
        this.#skipped,
        { path: '', reason: 'too-many-files', detail: `${this.#beyond} more files match than are taken` },
        this.#beyond,
      );
    return {
      files: this.#files,
      folders: this.#selectedFolders,
      links: this.#links,
      matched: [...this.#matched],
      skipped: this.#skipped,
    };
  }

  /** Of a guest that ended, or was suspended, before it wrote its journal back. */
  #readJournal(): void {
    const { journalInode } = this.#image;
    if (journalInode === null) return;
    try {
      this.#image.readCopies(readJournal(this.#image, journalInode, this.#spending));
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      throw refused(`its journal was not written back, and can not be read: ${error.message}`);
    }
  }

  #visitFolder(inode: Inode, path: string, selection: SelectedFolder): void {
    if (inode.kind !== 'folder') throw new Damage('it is no folder');
    if (this.#entered.has(inode.number)) throw new Damage('the folder is in two places');
    this.#entered.add(inode.number);
    this.#folders.push(inode);
    this.#reading = path;
    const before = this.#files.length;
    try {
      for (const entry of readFolder(this.#image, inode, this.#spending)) {
        if (path === '' && entry.name.equals(lostAndFound)) continue;
        const selected = selection.enter(symbolsOf(entry.name));
        if (selected.patterns.length === 0 && selected.folder === null) continue;
        const entryPath = path === '' ? escapeName(entry.name) : `${path}/${escapeName(entry.name)}`;
        this.#attempt(entryPath, () => this.#visitEntry(entry, entryPath, selected));
        this.#reading = path;
      }
      if (path !== '' && (selection.whole || this.#files.length > before)) this.#takeFolder(inode, path);
    } finally {
      this.#folders.pop();
    }
  }

  #visitEntry(entry: Entry, path: string, { patterns, folder }: { patterns: string[]; folder: SelectedFolder | null }): void {
    const inode = this.#image.readInode(entry.inode);
    if (inode.kind === 'folder' && folder === null) return;
    if (inode.kind !== 'folder' && inode.kind !== 'link' && patterns.length === 0) return;
    if (Buffer.byteLength(path) > outputPathBytes)
      this.#skip(path, 'name-too-long', `its path has more than ${outputPathBytes} bytes`);
    else if (inode.kind === 'folder') this.#visitFolder(inode, path, folder!);
    else if (inode.kind === 'link') this.#visitLink(inode, path, patterns);
    else if (inode.kind === 'file') this.#takeFile(inode, path, patterns);
    else this.#skip(path, 'special-file', 'it is a device, a pipe or a socket');
  }

  /** A link to a file of this disk is that file under another name. Others are told: a folder would come twice, or never end. */
  #visitLink(link: Inode, path: string, patterns: string[]): void {
    const target = followLink(this.#image, this.#index, link, this.#folders, this.#spending);
    const kind = target.to === 'inode' ? target.inode.kind : target.to;
    if (patterns.length === 0 && kind !== 'folder') return;
    const name = escapeTarget(readTarget(this.#image, link, this.#spending));
    this.#spending.spend('bytes', path.length + name.length);
    this.#links.push({ path, target: name });
    if (target.to === 'inode' && kind === 'file') this.#takeFile(target.inode, path, patterns);
    else this.#skip(path, 'symbolic-link', `it leads to ${leadsTo[kind]}: ${name}`);
  }

  #takeFolder({ mode, modifiedMs }: Inode, path: string): void {
    this.#spending.spend('bytes', path.length + 64);
    this.#selectedFolders.push({ path, mode, modifiedMs });
  }

  #takeFile(inode: Inode, path: string, patterns: string[]): void {
    for (const pattern of patterns) this.#matched.add(pattern);
    if (!this.#spending.takeFile()) {
      this.#beyond += 1;
      return;
    }
    const { blockBytes } = this.#image;
    if (!Number.isSafeInteger(inode.sizeBytes)) throw new Damage(`its size is ${inode.sizeBytes}`);
    const extents = readExtents(this.#image, inode, this.#spending);
    this.#spending.spend('bytes', path.length + 64);
    const runs: number[] = [];
    let dataBytes = 0;
    for (const { logical, count, start } of extents) {
      const at = logical * blockBytes;
      const bytes = Math.min(count * blockBytes, inode.sizeBytes - at);
      runs.push(at, bytes, start * blockBytes);
      dataBytes += bytes;
    }
    this.#files.push({ path, sizeBytes: inode.sizeBytes, dataBytes, runs, mode: inode.mode, modifiedMs: inode.modifiedMs });
  }

  /** What is damaged is skipped alone. */
  #attempt(path: string, act: () => void): void {
    try {
      act();
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      this.#skip(path, 'damaged', error.message);
    }
  }

  #skip(path: string, reason: SkipReason, detail: string): void {
    const row: SkippedFile = { path, reason, detail };
    skip(this.#skipped, row);
  }
}

const lostAndFound = Buffer.from('lost+found');

const leadsTo: Record<string, string> = {
  folder: 'a folder',
  link: 'itself',
  special: 'a device, a pipe or a socket',
  outside: 'what is not on the data disk',
  nothing: 'nothing',
};

const escapeTarget = (target: Buffer): string =>
  target
    .toString('latin1')
    .split('/')
    .map((name) => escapeName(Buffer.from(name, 'latin1')))
    .join('/');
