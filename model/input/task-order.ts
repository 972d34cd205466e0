import { z } from 'zod';
import { ruledFields, unpromised } from '../placement/rules.ts';
import { LeaseSpec, leaseFields, TaskSpec, taskLimits, wrongTimes } from '../task.ts';
import { maxOrderBytes, maxPatternsJsonBytes, orderBytes } from './order-size.ts';

/** How long a command may run that says neither timeoutS nor a lease's duration, in seconds. */
const defaultTimeoutS = 600;

const durationS = leaseFields.shape.durationS.removeDefault().optional().meta({
  description:
    'How long its VMs may run, from when they answer; `timeoutS` unless said, and no shorter. What it takes to make and remove them is not counted',
});

const LeaseOrder = leaseFields
  .extend({ durationS })
  .superRefine((lease, context) => {
    for (const { path, message } of wrongTimes(lease)) context.addIssue({ code: 'custom', path, message });
  })
  .meta({ id: 'LeaseOrder' });

/**
 * A task as a caller asks for it. Its lease lasts as long as its command may run, unless the caller says more: a lease that
 * ends before takes the VMs away with the outputs.
 */
export const TaskOrder = TaskSpec.extend({
  lease: LeaseOrder.default({ kind: 'bestEffort' }),
  timeoutS: z
    .int()
    .min(1)
    .max(taskLimits.timeoutS)
    .optional()
    .meta({ description: `How long the command may run; ${defaultTimeoutS} s, or as long as a shorter lease, unless said` }),
})
  .transform((order, context): TaskSpec => {
    const { durationS } = order.lease;
    const timeoutS = order.timeoutS ?? Math.min(defaultTimeoutS, durationS ?? defaultTimeoutS);
    if (durationS !== undefined && durationS < timeoutS)
      context.addIssue({
        code: 'custom',
        path: ['lease', 'durationS'],
        message: `expected at least timeoutS, which is ${timeoutS}: a lease that ends before the command takes its outputs away`,
      });
    if (order.lease.kind !== 'bestEffort' || order.lease.deadline !== undefined)
      for (const field of ruledFields(order)) context.addIssue({ code: 'custom', path: [field], message: unpromised });
    const bytes = orderBytes(order);
    if (bytes > maxOrderBytes)
      context.addIssue({
        code: 'custom',
        path: ['nodes'],
        message: `expected at most ${maxOrderBytes} bytes of command, variables, inputs and patterns in all nodes, and found about ${bytes}: put inputs into an archive, or a long command into an input`,
      });
    const patternsBytes = Buffer.byteLength(JSON.stringify(order.outputs));
    if (patternsBytes > maxPatternsJsonBytes)
      context.addIssue({
        code: 'custom',
        path: ['outputs'],
        message: `expected at most ${maxPatternsJsonBytes} bytes of patterns as JSON, and found ${patternsBytes}: a control character takes six`,
      });
    return { ...order, timeoutS, lease: LeaseSpec.parse({ ...order.lease, durationS: durationS ?? timeoutS }) };
  })
  .meta({ id: 'TaskOrder' });
