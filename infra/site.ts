import { startSite } from './site/site.ts';

/** `npm start`: runs the site until it is interrupted. Progress goes to standard error, the READY line to standard output. */
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

/** Processors, such as 0.5; null: not set. */
const fraction = (name: string): number | null => {
  const text = process.env[name];
  if (text === undefined) return null;
  const value = Number(text);
  if (!(value >= 0.05 && value <= 1024))
    throw new Error(`${name}: found ${JSON.stringify(text)}; expected a number from 0.05 on`);
  return value;
};

const interruption = new AbortController();
const interrupted = new Promise<string>((resolve) => {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(name, () => {
      interruption.abort(new Error(name));
      resolve(name);
    });
});
const starting = startSite({
  home: process.env.BERTH_HOME ?? '.berth',
  hosts: number('BERTH_HOSTS', 3, 1, 200),
  edges: number('BERTH_EDGES', 1, 0, 9),
  guestProcessors: fraction('BERTH_GUEST_PROCESSORS'),
  apiPort: process.env.BERTH_API_PORT === undefined ? null : number('BERTH_API_PORT', 0, 0, 65_535),
  signal: interruption.signal,
  note,
});
const site = await starting.catch((error: unknown) => {
  // Prints the whole error unless an interruption caused it.
  console.error(interruption.signal.aborted ? `${String(error)}: the site was stopped while it started` : error);
  process.exit(1);
});
note('ready');
console.log(`READY ${JSON.stringify(site.ready)}`);
note(`${await interrupted}: stopping`);
await site.stop();
note('stopped');
