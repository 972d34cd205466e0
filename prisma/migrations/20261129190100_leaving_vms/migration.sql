-- Written by hand. The few VMs that are being removed: by them a task is found that has ended before all of its VMs were.
CREATE INDEX "Vm_leaving" ON "Vm" ("taskId") WHERE state IN ('removing', 'stuck');
