import { readFile } from 'node:fs/promises';
import { type Dispatcher, request } from 'undici';

/** A machine of the site with a key of its own. */
export interface ApiAccess {
  dispatcher: Dispatcher;
  /** File with the machine's key; read at each call, so that a replaced key needs no restart. */
  keyFile: string;
  /** An answer that is longer is refused. */
  maxAnswerBytes: number;
}

/** Asks the API with the machine's key. @param report is sent as JSON, by POST; absent: a GET */
export async function askApi(
  { dispatcher, keyFile, maxAnswerBytes }: ApiAccess,
  url: URL,
  options: { signal: AbortSignal; timeoutMs?: number; report?: object },
): Promise<{ status: number; text: string }> {
  const { signal, timeoutMs, report } = options;
  const key = (await readFile(keyFile, 'utf8')).trim();
  const authorization = `Bearer ${key}`;
  const { statusCode, body } = await request(url, {
    dispatcher,
    signal,
    ...(timeoutMs !== undefined && { headersTimeout: timeoutMs, bodyTimeout: timeoutMs }),
    ...(report === undefined
      ? { headers: { authorization } }
      : { method: 'POST', headers: { authorization, 'content-type': 'application/json' }, body: JSON.stringify(report) }),
  });
  let text = '';
  for await (const chunk of body.setEncoding('utf8')) {
    text += String(chunk);
    if (text.length > maxAnswerBytes) throw new Error(`${url.host} answered more than ${maxAnswerBytes} bytes`);
  }
  return { status: statusCode, text };
}
