// Package bolt is the local [cnm.Store]: two bbolt files behind one interface.
//
// Records that outlive a reboot are in the state file, flushed to disk by every commit;
// commits that come in while one is being flushed share the next flush. Records that
// describe the running kernel are in the runtime file, which is never flushed, survives the death of
// the process only, and is thrown away when it is another boot's: so no address or port is
// ever held by something that is gone.
//
// bbolt maps its file into memory and trusts it: a truncated or damaged file kills the
// process. So every file is checked page by page and record by record before bbolt sees it,
// and replaced by its last good copy when it fails; [Store.Notices] tells.
package bolt
