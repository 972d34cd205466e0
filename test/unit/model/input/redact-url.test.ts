import { expect, it } from 'vitest';
import { redactBegin, redactUrls } from '../../../../model/input/redact-url.ts';

it.each([
  ['https://ann:secret@example.com/x', 'https://…@example.com/x'],
  ['ftp://ann@example.com', 'ftp://…@example.com'],
  ['http://ann:p@ss@example.com/a@b', 'http://…@example.com/a@b'],
  ['"https://a:b@c.test/", "http://d:e@f.test/"', '"https://…@c.test/", "http://…@f.test/"'],
  ['http:\\\\ann:secret@example.com', 'http:\\\\…@example.com'],
  ['https://example.com/ann@home?to=x@y', 'https://example.com/ann@home?to=x@y'],
  ['mail to ann@example.com', 'mail to ann@example.com'],
])('%s is shown as %s', (text, shown) => {
  expect(redactUrls(text)).toBe(shown);
});

it('takes time in proportion to the text', () => {
  const began = performance.now();
  redactUrls('a://'.repeat(100_000));
  redactUrls(`http://${'x'.repeat(1_000_000)}`);
  expect(performance.now() - began).toBeLessThan(2000);
});

it('of the begin of a text shows no part of a user or a password that goes on after it', () => {
  expect(redactBegin('"https://ann:secret@example.com/x"', 100)).toBe('"https://…@example.com/x"');
  const secret = `https://ann:${'secret'.repeat(100_000)}@example.com`;
  for (const text of [secret, `"${secret}"`, `ftp://a@b.test/ ${secret}`])
    for (let chars = 1; chars < 200; chars += 1) expect(redactBegin(text, chars)).not.toMatch(/ann|sec/);
  expect(redactBegin(`http://a:b@c.test/ ${secret}`, 60)).toBe('http://…@c.test/ https://…');
});

it('of the begin takes no time for the rest', () => {
  const text = 'x'.repeat(4_000_000);
  const began = performance.now();
  for (let times = 0; times < 50; times += 1) redactBegin(text, 1024);
  expect(performance.now() - began).toBeLessThan(200);
});
