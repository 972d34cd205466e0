import { startSite } from './site/site.ts';

/** `npm start`: the site, until it is interrupted. Progress on standard error, the READY line on standard output. */
const startedMs = performance.now();
const note = (text: string): void =>
  console.error(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s  ${text}`);
const number = (name: string, fallback: number, least: number, most: number): number => {
  const text = process.env[name] ?? String(fallback);
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new Error(`${name}: found ${JSON.stringify(text)}; expected a whole number from ${least} to ${most}`);
  return value;
};

const interrupted = new Promise<string>((resolve) => {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => resolve(name));
});
const starting = startSite({
  home: process.env.BERTH_HOME ?? '.berth',
  hosts: number('BERTH_HOSTS', 3, 1, 200),
  apiPort: number('BERTH_API_PORT', 0, 0, 65_535),
  note,
});
// Interrupted while it starts: it is stopped all the same, once it stands or has failed.
const site = await starting;
if ((await Promise.race([interrupted, Promise.resolve('up')])) === 'up') {
  note('ready');
  console.log(`READY ${JSON.stringify(site.ready)}`);
}
const why = await interrupted;
note(`${why}: stopping`);
await site.stop();
note('stopped');
