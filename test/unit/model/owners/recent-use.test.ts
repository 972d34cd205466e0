import { describe, expect, it } from 'vitest';
import { RecentUse } from '../../../../model/owners/recent-use.ts';

const owners = (uses: [string, number, number][]): RecentUse => {
  const use = new RecentUse();
  for (const [owner, ms, atMs] of uses) use.add(owner, ms, atMs);
  return use;
};

describe('an owner is above its share', () => {
  it('where it has used more than the others', () => {
    const use = owners([
      ['alice', 100, 0],
      ['bob', 10, 0],
      ['carol', 40, 0],
    ]);
    expect(['alice', 'bob', 'carol', 'dave'].map((owner) => use.isAboveShare(owner, 0))).toEqual([true, false, false, false]);
  });

  it('never where it is alone, or the others have not been there for long', () => {
    const use = owners([
      ['bob', 100, 0],
      ['alice', 1000, 20_000],
    ]);
    expect(use.isAboveShare('alice', 20_000)).toBe(false);
    use.add('bob', 5, 20_001);
    expect(use.isAboveShare('alice', 20_001)).toBe(true);
  });

  it('no more once it has rested', () => {
    const use = owners([
      ['alice', 200, 0],
      ['bob', 20, 0],
    ]);
    for (let s = 1; s <= 4; s += 1) use.add('bob', 20, s * 1000);
    expect(use.isAboveShare('alice', 4_000)).toBe(false);
    expect(use.isAboveShare('bob', 4_000)).toBe(true);
  });
});
