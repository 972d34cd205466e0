import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { openHome } from './home.ts';
import { nsenterArgv, pidFile } from './host/host.ts';
import { isAlive } from './processes.ts';

/** `node infra/site/on-host.ts HOST COMMAND…`: runs a command inside a host of the site at BERTH_HOME; a shell by default. */
const [id, ...given] = process.argv.slice(2);
if (id === undefined) throw new Error('Usage: node infra/site/on-host.ts HOST [COMMAND…]');
const file = pidFile(openHome(process.env.BERTH_HOME ?? '.berth'), id);
const pid = Number(readFileSync(file, 'utf8'));
if (!isAlive(pid)) throw new Error(`${file} names process ${pid}, which is gone: the site doesn't run`);
const [program, ...args] = nsenterArgv(pid, given.length === 0 ? ['bash'] : given);
const child = spawn(program, args, { stdio: 'inherit' });
child.once('exit', (code, name) => {
  process.exitCode = name === null ? (code ?? 1) : 128;
});
