/**
 * What files do not carry: modes and times, folders that may be empty, and links. With `outputManifest` each VM of a task
 * has one as a further output, JSON. Paths are those of outputs.
 */
export const manifestPath = '.berth-outputs.json';

export interface ManifestEntry {
  path: string;
  /** Permission bits, four octal digits or more. */
  mode: string;
  /** RFC 3339 */
  modifiedAt: string;
}

export interface ManifestLink {
  path: string;
  /** As text, names escaped. */
  target: string;
}

export interface OutputManifest {
  version: 1;
  files: ManifestEntry[];
  /** Those that are outputs whole, or have a file that is one. */
  folders: ManifestEntry[];
  /** Those that were followed to a file are among the files as well. */
  links: ManifestLink[];
}

export interface ListedEntry {
  path: string;
  mode: number;
  modifiedMs: number;
}

/** The last time that a Date has. A guest chooses the times. */
const maxMs = 8.64e15;

export function manifestEntry({ path, mode, modifiedMs }: ListedEntry): ManifestEntry {
  const bounded = Math.max(-maxMs, Math.min(maxMs, modifiedMs));
  return { path, mode: mode.toString(8).padStart(4, '0'), modifiedAt: new Date(bounded).toISOString() };
}
