import { TypeID } from 'typeid-js';

/**
 * Ids are TypeIDs: a prefix that says what is named, and a UUIDv7, so that they sort by time
 * and a VM's id and its hypervisor UUID are one and the same thing in two spellings.
 */
const prefixes = {
  owner: 'owner',
  key: 'key',
  file: 'file',
  image: 'image',
  host: 'host',
  vm: 'vm',
  task: 'task',
  lease: 'lease',
  event: 'event',
  network: 'net',
  migration: 'migration',
  drain: 'drain',
  reservation: 'reservation',
  port: 'port',
  account: 'account',
  transfer: 'transfer',
  price: 'price',
  quote: 'quote',
  offer: 'offer',
  join: 'join',
  webhook: 'webhook',
  secret: 'secret',
  deletion: 'deletion',
  rule: 'rule',
} as const;

export type IdKind = keyof typeof prefixes;
export type Id<K extends IdKind> = string & { readonly __id: K };
export type OwnerId = Id<'owner'>;
export type FileId = Id<'file'>;
export type ImageId = Id<'image'>;
export type VmId = Id<'vm'>;
export type TaskId = Id<'task'>;
export type AccountId = Id<'account'>;
export type TransferId = Id<'transfer'>;
export type PriceBookId = Id<'price'>;
export type QuoteId = Id<'quote'>;
export type OfferId = Id<'offer'>;

/** A task or a standalone VM, which waits for a placement and is notified of it. */
export type WaiterId = TaskId | VmId;

/** A host is named by its operator (a DNS label), not by us: it is the name its machine already has. */
export type HostId = string & { readonly __id: 'host' };

export function newId<K extends IdKind>(kind: K): Id<K> {
  const text: string = new TypeID(prefixes[kind]).toString();
  return text as Id<K>;
}

export function isId<K extends IdKind>(kind: K, text: string): text is Id<K> {
  try {
    return TypeID.fromString(text).getType() === prefixes[kind];
  } catch {
    return false;
  }
}

/** The UUID inside an id, as libvirt and systemd want it. */
export function uuidOf(id: string): string {
  return TypeID.fromString(id).toUUID();
}
