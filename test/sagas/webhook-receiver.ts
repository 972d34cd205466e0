import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';

/** A receiver as a process, which notes the sequence of each event in a file before it takes it: `PORT FILE`. */
const [port, file] = process.argv.slice(2) as [string, string];
let requests = 0;
createServer(async (req, res) => {
  const chunks: Buffer[] = [];
  for await (const chunk of req) chunks.push(chunk as Buffer);
  requests += 1;
  if (requests % 23 === 0) return res.writeHead(500).end();
  const { sequence } = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { sequence: string };
  appendFileSync(file, `${sequence}\n`);
  // Noted, and not answered: it comes again.
  if (requests % 37 === 0) return req.socket.destroy();
  return res.end();
}).listen(Number(port), '127.0.0.1', () => process.stdout.write('{"addresses":"listening"}\n'));
