import type { Spending } from './budget.ts';
import { readExtents } from './extents.ts';
import type { FolderIndex } from './folders.ts';
import { Damage, type Ext4Image, type Inode } from './image.ts';

/** Where the data disk is mounted in the guest. */
const mountPoint = '/home/task';
/** As Linux has it. */
const maxHops = 40;
const maxTargetBytes = 4096;
/** A target up to this length is in the inode itself. */
const shortTargetBytes = 59;

/** What a symbolic link leads to; `outside` and `nothing`: not to a file or folder of this disk. */
export type Resolved = { to: 'inode'; inode: Inode } | { to: 'outside' | 'nothing' };

/** Follows a link on the disk. `folders`: from the root to the folder that has the link. */
export function followLink(
  image: Ext4Image,
  index: FolderIndex,
  link: Inode,
  folders: readonly Inode[],
  spending: Spending,
): Resolved {
  const path = [...folders];
  let rest: Buffer[] = [];
  let current = link;
  for (let hops = 0; hops < maxHops; hops += 1) {
    const target = readTarget(image, current, spending);
    const inside = target[0] === slash ? withinMount(target) : target;
    if (inside === null) return { to: 'outside' };
    if (target[0] === slash) path.length = 1;
    rest = [...splitPath(inside), ...rest];
    const step = walk(image, index, path, rest, spending);
    if (step.to !== 'inode' || step.inode.kind !== 'link') return step;
    current = step.inode;
    rest = step.rest;
  }
  return { to: 'nothing' };
}

type Step = { to: 'inode'; inode: Inode; rest: Buffer[] } | { to: 'outside' | 'nothing' };

/** Goes down `names` from the end of `path`, which it changes, to their end or to the next link. */
function walk(image: Ext4Image, index: FolderIndex, path: Inode[], names: Buffer[], spending: Spending): Step {
  for (const [at, name] of names.entries()) {
    spending.spend('entries');
    const folder = path.at(-1);
    if (folder === undefined) return { to: 'outside' };
    if (name.equals(dot)) continue;
    if (name.equals(dots)) {
      path.pop();
      if (path.length === 0) return { to: 'outside' };
      continue;
    }
    const number = index.find(folder, name);
    if (number === null) return { to: 'nothing' };
    const inode = image.readInode(number);
    const last = at === names.length - 1;
    if (inode.kind === 'folder') path.push(inode);
    else if (inode.kind === 'link' || last) return { to: 'inode', inode, rest: names.slice(at + 1) };
    else return { to: 'nothing' };
  }
  const folder = path.at(-1);
  return folder === undefined ? { to: 'outside' } : { to: 'inode', inode: folder, rest: [] };
}

export function readTarget(image: Ext4Image, link: Inode, spending: Spending): Buffer {
  if (link.sizeBytes <= shortTargetBytes) return link.root.subarray(0, link.sizeBytes);
  if (link.sizeBytes > maxTargetBytes) throw new Damage(`its target has ${link.sizeBytes} bytes`);
  const [extent] = readExtents(image, link, spending);
  if (extent === undefined || extent.logical !== 0) throw new Damage('its target is damaged');
  return image.readBlock(extent.start).subarray(0, link.sizeBytes);
}

const slash = 0x2f;
const dot = Buffer.from('.');
const dots = Buffer.from('..');

function splitPath(path: Buffer): Buffer[] {
  const names: Buffer[] = [];
  for (let from = 0; from <= path.length; ) {
    const end = path.indexOf(slash, from);
    const until = end < 0 ? path.length : end;
    if (until > from) names.push(path.subarray(from, until));
    from = until + 1;
  }
  return names;
}

/** The part of an absolute path below the mount point; null: it leads elsewhere. */
function withinMount(target: Buffer): Buffer | null {
  const text = target.toString('latin1');
  if (text !== mountPoint && !text.startsWith(`${mountPoint}/`)) return null;
  return target.subarray(mountPoint.length);
}
