import { type Logger, pino } from 'pino';

export type { Logger };

/**
 * The one logger: JSON lines on standard output. Ids are fields, always by the same names: taskId, vmId, hostId,
 * owner, workflowId, so that one search finds a thing in every process's log.
 */
export function openLog(process: string, level: string, fields: Record<string, string> = {}): Logger {
  return pino({
    level,
    base: { process, ...fields },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: ['req.headers.authorization', '*.authorization', '*.signature', '*.key'],
  });
}
