import { expect, it } from 'vitest';
import { redactUrls } from '../../../../model/input/redact-url.ts';

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
