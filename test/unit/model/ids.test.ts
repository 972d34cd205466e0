import { describe, expect, it } from 'vitest';
import { isId, newId, uuidOf } from '../../../model/ids.ts';

describe('ids', () => {
  it('name the kind of their object', () => {
    const id = newId('vm');
    expect(id).toMatch(/^vm_[0-9a-z]{26}$/);
    expect(isId('vm', id)).toBe(true);
    expect(isId('task', id)).toBe(false);
  });

  it.each([
    '',
    'vm_',
    'vm_!',
    'vm',
    '../vm',
    'vm_01h2xcejqtf2nbrexx3vqjhp4',
    'VM_01h2xcejqtf2nbrexx3vqjhp41',
    'vm_01h2xcejqtf2nbrexx3vqjhp41x',
  ])('are not %j', (text) => {
    expect(isId('vm', text)).toBe(false);
  });

  it('contain a UUIDv7, the hypervisor’s name for the same VM', () => {
    const id = newId('vm');
    expect(uuidOf(id)).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(new Set(Array.from({ length: 1000 }, () => uuidOf(newId('vm')))).size).toBe(1000);
  });

  it('sort by the time of their creation', () => {
    const ids = Array.from({ length: 100 }, () => newId('task'));
    expect([...ids].sort()).toEqual(ids);
  });
});
