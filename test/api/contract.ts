import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { describeApi } from '../../api/http/openapi.ts';

type Document = ReturnType<typeof describeApi>;

interface Described {
  content?: Record<string, { schema?: unknown }>;
}

/** Validates answers against the OpenAPI document, and records which operations and statuses occurred. */
export class Contract {
  readonly document: Document;
  readonly seen = new Set<string>();
  readonly #ajv = new Ajv2020({ strict: false, allErrors: true });
  readonly #validators = new Map<string, ValidateFunction>();

  constructor(document: Document) {
    this.document = document;
    formats.default(this.#ajv);
    this.#ajv.addSchema(document, 'openapi');
  }

  operations(): string[] {
    return Object.entries(this.document.paths ?? {}).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
  }

  #pathOf(pathname: string): string | undefined {
    const paths = Object.keys(this.document.paths ?? {});
    const matches = paths.filter((path) =>
      new RegExp(`^${path.replace('{path}', '.+').replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(pathname),
    );
    return matches.find((path) => !path.includes('{')) ?? matches[0];
  }

  #validator(pointer: string): ValidateFunction {
    const known = this.#validators.get(pointer);
    if (known) return known;
    const compiled = this.#ajv.compile({ $ref: `openapi#${pointer}` });
    this.#validators.set(pointer, compiled);
    return compiled;
  }

  /** Throws when the answer is not one that the document describes. */
  async check(method: string, path: string, response: Response): Promise<void> {
    const verb = method === 'HEAD' ? 'get' : method.toLowerCase();
    const template = this.#pathOf(new URL(path, 'http://api').pathname);
    const item = (this.document.paths?.[template ?? ''] ?? {}) as Record<string, { responses: Record<string, Described> }>;
    const operation = item[verb];
    if (!operation) return;
    const status = String(response.status);
    this.seen.add(`${verb.toUpperCase()} ${template}`);
    const described = operation.responses[status];
    if (!described) throw new Error(`${method} ${path} answered ${status}, which the document doesn't describe`);
    const media = response.headers.get('content-type')?.split(';')[0] ?? null;
    const content = Object.keys(described.content ?? {});
    if (content.length === 0 || method === 'HEAD') return;
    if (media === null || !content.includes(media))
      throw new Error(`${method} ${path} answered ${media}; described is ${content}`);
    if (!media.endsWith('json')) return;
    const keys = ['paths', template!, verb, 'responses', status, 'content', media, 'schema'];
    const pointer = keys.map((key) => `/${encodeURIComponent(key.replaceAll('~', '~0').replaceAll('/', '~1'))}`).join('');
    const validate = this.#validator(pointer);
    const body: unknown = await response.json();
    if (!validate(body))
      throw new Error(`${method} ${path} ${status}: ${this.#ajv.errorsText(validate.errors)}: ${JSON.stringify(body)}`);
  }
}
