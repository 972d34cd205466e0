import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../model/config.ts';

const ledger = { DATABASE_URL: 'postgresql://db.test/berth' };

describe('readConfig', () => {
  it('fills in what is not set', () => {
    const { control, log } = readConfig(['control', 'log'], {});
    expect(control).toMatchObject({
      BERTH_ALLOW_INTERNAL_URLS: false,
      BERTH_MAX_OVERTAKEN: 8,
      BERTH_GUEST_SUPERNET: '10.128.0.0/9',
    });
    expect(log.BERTH_LOG_LEVEL).toBe('info');
  });

  it('reads numbers and flags from text', () => {
    const { control } = readConfig(['control'], { BERTH_ALLOW_INTERNAL_URLS: '1', BERTH_MAX_OVERTAKEN: '0' });
    expect(control).toMatchObject({ BERTH_ALLOW_INTERNAL_URLS: true, BERTH_MAX_OVERTAKEN: 0 });
  });

  it('gives a process the groups that it requests and no others', () => {
    expect(Object.keys(readConfig(['ledger'], { ...ledger, BERTH_SIGNING_KEY: 'secret' }))).toEqual(['ledger']);
    expect(JSON.stringify(readConfig(['log'], ledger))).not.toContain('db.test');
  });

  it('names every variable that is wrong, with what was found', () => {
    const read = () =>
      readConfig(['ledger', 'host', 'control'], {
        BERTH_HOST_ID: 'Not_A_Label',
        BERTH_MAX_OVERTAKEN: '-1',
        BERTH_HOST_ADDRESS: 'nowhere',
      });
    for (const text of ['DATABASE_URL: found null', 'BERTH_HOST_ID: found "Not_A_Label"', 'expected a DNS label'])
      expect(read).toThrow(text);
    for (const text of ['BERTH_HOST_ADDRESS: found "nowhere"', 'BERTH_HOSTS_CIDR: found null', 'BERTH_MAX_OVERTAKEN: found "-1"'])
      expect(read).toThrow(text);
  });

  it.each([
    ['BERTH_API_PORT', '65536'],
    ['BERTH_API_PORT', '1.5'],
    ['BERTH_QUOTA_BYTES', 'much'],
  ])('refuses %s=%s', (name, value) => {
    expect(() => readConfig(['api'], { BERTH_REPOSITORY: '/r', [name]: value })).toThrow(name);
  });

  it('refuses a signing key that is short', () => {
    expect(() => readConfig(['signing'], { BERTH_SIGNING_KEY: 'short', BERTH_REPOSITORY_URL: 'http://r/' })).toThrow(
      'BERTH_SIGNING_KEY',
    );
  });
});
