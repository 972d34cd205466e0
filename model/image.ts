import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { FileId, ImageId } from './ids.ts';
import { folderAmongFiles, unusableGuestPath } from './input/guest-path.ts';
import { envName, noNul, taskLimits } from './task.ts';

/** Bounds on everything a caller can ask of an image. */
export const imageLimits = {
  nameChars: 63,
  packages: 500,
  files: 200,
  commands: 100,
  commandBytes: 64 * 1024,
  envEntries: 128,
  envBytes: 16 * 1024,
  /** Of the disk that its VMs see; an uploaded one may not be larger either. */
  sizeMiB: 65_536,
  timeoutS: 6 * 3600,
  /** Of one owner: images that aren't retired, and builds at a time. */
  images: 200,
  builds: 4,
} as const;

export const imageName = z
  .string()
  .max(imageLimits.nameChars)
  .regex(/^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/, { error: 'expected lower-case letters, digits, ".", "_" and "-"' })
  .meta({ description: 'Name of an image', example: 'encoder' });

/** Debian's own words for a package, with an architecture or a version where it matters. */
const packageName = z
  .string()
  .max(128)
  .regex(/^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?$/, { error: "expected a Debian package's name" });

/** An absolute path that names itself: no empty, `.` or `..` part, no control characters. */
function isImagePath(path: string): boolean {
  if (!path.startsWith('/') || path === '/' || Buffer.byteLength(path) > taskLimits.pathBytes) return false;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: refusing them is the point
  if (/[\u0000-\u001f\u007f]/.test(path)) return false;
  const parts = path.slice(1).split('/');
  return parts.every((part) => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= 255);
}

export const ImageFile = z
  .strictObject({
    path: z.string().refine(isImagePath, { error: 'expected an absolute path without empty, "." or ".." parts' }),
    file: z.string().min(1).max(64).meta({ description: 'Id of a file in the repository' }),
    mode: z
      .string()
      .regex(/^0[0-7]{3}$/, { error: 'expected four octal digits, the first of them 0' })
      .default('0644'),
  })
  .meta({ id: 'ImageFile' });

const ImageBase = z
  .union([
    z.strictObject({ image: imageName }).meta({ title: 'Another image, as its name stands now' }),
    z
      .strictObject({ file: z.string().min(1).max(64) })
      .meta({ title: 'A disk in the repository, qcow2 or raw by its header. It boots by itself, and is taken as it is' }),
    z
      .strictObject({
        suite: z.string().regex(/^[a-z][a-z0-9-]{1,31}$/, { error: "expected the name of one of Debian's suites" }),
      })
      .meta({ title: "One of Debian's suites, with the kernel of the site's own image" }),
  ])
  .meta({ id: 'ImageBase' });

const bytesOf = (words: string[]): number => words.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0);

/** What a caller asks for. */
export const ImageRecipe = z
  .strictObject({
    name: imageName,
    base: ImageBase,
    packages: z.array(packageName).max(imageLimits.packages).default([]),
    files: z
      .array(ImageFile)
      .max(imageLimits.files)
      .refine((files) => new Set(files.map(({ path }) => path)).size === files.length, { error: 'expected each path once' })
      .default([]),
    commands: z
      .array(z.string().min(1).refine(noNul, { error: 'expected no NUL character' }))
      .max(imageLimits.commands)
      .refine((commands) => bytesOf(commands) <= imageLimits.commandBytes, {
        error: `expected at most ${imageLimits.commandBytes} bytes in all`,
      })
      .default([])
      .meta({ description: 'Each is run by sh -e, as root, in the build VM, one after the other' }),
    env: z
      .record(envName, z.string().refine(noNul, { error: 'expected no NUL character' }))
      .refine((env) => Object.keys(env).length <= imageLimits.envEntries, {
        error: `expected at most ${imageLimits.envEntries} variables`,
      })
      .refine((env) => bytesOf(Object.entries(env).flat()) <= imageLimits.envBytes, {
        error: `expected at most ${imageLimits.envBytes} bytes in all`,
      })
      .default({})
      .meta({ description: 'Environment of the commands and of the scripts of packages; not kept in the image' }),
    sizeMiB: z
      .int()
      .min(16)
      .max(imageLimits.sizeMiB)
      .optional()
      .meta({ description: "Size of the disk; the base's own unless said. Of an uploaded disk, the most that it may have" }),
    cloudInit: z
      .boolean()
      .default(false)
      .meta({ description: 'It has cloud-init: its VMs are given a NoCloud seed with their name and network at the first boot' }),
    resources: z
      .strictObject({
        vcpus: z.int().min(1).max(16).default(1),
        memoryMiB: z.int().min(256).max(65_536).default(512),
      })
      .default({ vcpus: 1, memoryMiB: 512 })
      .meta({ description: 'Of the build VM; no part of what the image is' }),
    timeoutS: z.int().min(30).max(imageLimits.timeoutS).default(3600).meta({ description: 'How long the build may take' }),
  })
  .refine(({ base, packages, files, commands }) => !('file' in base) || packages.length + files.length + commands.length === 0, {
    error: 'expected no packages, files or commands on an uploaded disk: make an image of it first, then another on that one',
    path: ['base'],
  })
  .superRefine(({ files }, context) => {
    for (const [index, { path }] of files.entries()) {
      const why = unusableGuestPath(path);
      if (why === null) continue;
      context.addIssue({
        code: 'custom',
        path: ['files', index, 'path'],
        message: `expected the path of a file: this one ${why}`,
      });
    }
    const folder = folderAmongFiles(files.map(({ path }) => path));
    if (folder === null) return;
    context.addIssue({ code: 'custom', path: ['files', folder, 'path'], message: 'expected no path to be a folder of another' });
  })
  .meta({ id: 'ImageRecipe' });

export type ImageRecipe = z.infer<typeof ImageRecipe>;

/** What the base was when the recipe came: names move, this doesn't. */
export type ResolvedBase =
  /** `digest`: of the image. */
  | { kind: 'image'; image: ImageId; digest: string }
  | { kind: 'disk'; file: FileId; sha256: string; sizeBytes: number }
  /** `image`: in a VM of it the suite is installed. */
  | { kind: 'suite'; suite: string; image: ImageId; digest: string };

export interface ResolvedFile {
  path: string;
  mode: string;
  file: string;
  sha256: string;
  sizeBytes: number;
}

/** A recipe with all references resolved, as the ledger stores it for the build. */
export interface ResolvedRecipe {
  base: ResolvedBase;
  packages: string[];
  files: ResolvedFile[];
  commands: string[];
  env: Record<string, string>;
  sizeMiB: number;
  cloudInit: boolean;
  resources: { vcpus: number; memoryMiB: number };
  timeoutS: number;
}

/** What of the base decides what the image will be; ids of rows and files don't. */
function baseIdentity(base: ResolvedBase): unknown[] {
  switch (base.kind) {
    case 'image':
      return ['image', base.digest];
    case 'disk':
      return ['disk', base.sha256];
    case 'suite':
      return ['suite', base.suite, base.digest];
  }
}

/**
 * The digest of a recipe, 32 hexadecimal digits: the same for the same content, in whatever order what has none was
 * written. Its owner is part of it, so that a digest says nothing about what other owners build.
 */
export function recipeDigest(owner: string, recipe: ResolvedRecipe): string {
  const canonical = [
    'berth recipe 1',
    owner,
    baseIdentity(recipe.base),
    canonicalPackages(recipe.packages),
    [...recipe.files].sort((a, b) => (a.path < b.path ? -1 : 1)).map(({ path, mode, sha256 }) => [path, mode, sha256]),
    recipe.commands,
    Object.entries(recipe.env).sort(([a], [b]) => (a < b ? -1 : 1)),
    recipe.sizeMiB,
    recipe.cloudInit,
  ];
  return createHash('sha256').update(JSON.stringify(canonical)).digest('hex').slice(0, 32);
}

export const canonicalPackages = (packages: string[]): string[] => [...new Set(packages)].sort();
