/* Claim, lease, commit: one instance with STEPS steps, two workers, a reaper, a canceller, the clock and the crash of
 * the server. README.md says which SQL statement each step stands for.
 *
 * Row versions: w_* is the newest version, c_* the committed one. They differ only while `lock` names the transaction
 * that wrote; only that transaction sees w_*. Each atomic block is one SQL statement, so a statement reads committed
 * rows as they are at that moment.
 */
#ifndef STEPS
#define STEPS 2
#endif
#ifndef FAULTS
#define FAULTS 2      /* rolled back transactions, lost answers, lost workers, releases */
#endif
#ifndef EARLY
#define EARLY 2       /* leases that run out although their worker lives; those of lost workers always do */
#endif

#define RUN 0     /* runnable */
#define EXE 1     /* executing */
#define END 2     /* done or cancelled */

#define NONE 0    /* lease_expires_at is null */
#define LIVE 1
#define PAST 2

#define CLIENT 9  /* lock owner: whoever is not a worker */
#define REAPER 8

byte lock = 0;
byte w_st = RUN, w_no = 0, w_lease = NONE, w_step = 0, w_serial = 0;
byte c_st = RUN, c_no = 0, c_lease = NONE, c_step = 0, c_serial = 0;

/* the row before a claim that was committed asynchronously and is not on disk yet */
bit unflushed = 0;
byte o_st, o_no, o_lease, o_serial;

byte clock = 0;        /* the microseconds in greatest(claim_no + 1, epoch microseconds) */
byte serial = 0;       /* ghost: numbers the claims, never reused whatever happens to claim_no */
byte faults = FAULTS;
byte early = EARLY;
byte held[3];          /* ghost: the claim that each worker believes to hold */
byte applied[STEPS];   /* ghost: committed transitions out of each step */

#define due(s, l) (s == RUN || (s == EXE && l == PAST))

inline flush()   { unflushed = 0; o_st = 0; o_no = 0; o_lease = 0; o_serial = 0 }
inline publish() { c_st = w_st; c_no = w_no; c_lease = w_lease; c_step = w_step; c_serial = w_serial; lock = 0 }
inline undo()    { w_st = c_st; w_no = c_no; w_lease = c_lease; w_step = c_step; w_serial = c_serial; lock = 0 }

proctype Worker(byte me)
{
    byte my_no = 0, my_step = 0;   /* what the worker remembers of its claim */
    byte new_no = 0;
    bit renewed = 0, busy = 0;

idle:
    if
    :: atomic {
#ifdef BUG_CLAIM_IGNORES_LEASE
        lock == 0 && (c_st == RUN || c_st == EXE) ->
#else
        lock == 0 && due(c_st, c_lease) ->
#endif
#ifndef BUG_PICK_WITHOUT_LOCK
        lock = me                               /* _pick_due: for no key update skip locked */
#endif
       }
    :: c_st == END -> goto over
    fi;
    atomic {                                    /* _hand_out: the update */
#ifdef BUG_PICK_WITHOUT_LOCK
        lock == 0 -> lock = me;
#endif
#ifdef BUG_CLAIM_NO_COUNTS_ONLY
        new_no = w_no + 1;
#else
        new_no = (w_no + 1 > clock + 1 -> w_no + 1 : clock + 1);
#endif
        w_st = EXE; w_no = new_no; w_lease = LIVE
    };
    if
    :: atomic {                                 /* the claim commits, and its answer arrives */
        assert(c_st != END);
        assert(!(c_st == EXE && c_lease == LIVE));       /* at most one live claim */
        o_st = c_st; o_no = c_no; o_lease = c_lease; o_serial = c_serial; unflushed = 1;
        serial++; clock = new_no; w_serial = serial;
        my_no = new_no; held[me] = serial; my_step = w_step; renewed = 0;
        publish()
       }
    :: atomic {                                 /* it commits, and the answer is lost with the worker */
        faults > 0 -> faults--;
        o_st = c_st; o_no = c_no; o_lease = c_lease; o_serial = c_serial; unflushed = 1;
        serial++; clock = new_no; w_serial = serial; new_no = 0;
        publish(); goto idle
       }
    :: atomic { faults > 0 -> faults--; new_no = 0; undo(); goto idle }       /* it is rolled back */
    fi;
    new_no = 0;

working:                                        /* the step runs: any other process may do anything meanwhile */
    if
    :: atomic { faults > 0 -> faults--; my_no = 0; held[me] = 0; my_step = 0; renewed = 0; goto idle }    /* worker lost */
    :: atomic { !renewed -> renewed = 1 };      /* gd_heartbeat: renew what is not locked, then ask what is lost */
        atomic {
            if
            :: lock == 0 && c_st == EXE && c_no == my_no -> lock = me; w_lease = LIVE
            :: else -> skip
            fi
        };
        atomic { if :: lock == me -> publish() :: else -> skip fi };
        atomic {
            if
            :: c_st == EXE && c_no == my_no -> goto working
            :: else -> my_no = 0; held[me] = 0; my_step = 0; renewed = 0; goto idle
            fi
        }
    :: atomic { faults > 0 -> faults-- };   /* gd_release */
        atomic {
            if
            :: lock == 0 && c_st == EXE && c_no == my_no -> lock = me; w_st = RUN; w_lease = NONE
            :: else -> skip
            fi
        };
        atomic {
            if :: lock == me -> publish(); flush() :: else -> skip fi;
            my_no = 0; held[me] = 0; my_step = 0; renewed = 0; goto idle
        }
    :: skip
    fi;

commit:
    atomic {                                    /* _lock_outcomes: claim_no and status under skip locked */
        if
#ifdef BUG_NO_FENCE
        :: lock == 0 && c_st == EXE -> lock = me; busy = 0
#else
        :: lock == 0 && c_st == EXE && c_no == my_no -> lock = me; busy = 0
#endif
        :: else -> busy = 1
        fi
    };
    if
    :: busy ->
        atomic {                                /* a later statement tells busy from stale */
            busy = 0;
            if
            :: c_st == EXE && c_no == my_no -> goto commit
            :: else -> my_no = 0; held[me] = 0; my_step = 0; renewed = 0; goto idle
            fi
        }
    :: else -> skip
    fi;
    atomic {                                    /* _apply_outcomes: the update */
        w_step = w_step + 1;
        if
        :: w_step == STEPS -> w_st = END; w_lease = NONE
        :: w_step < STEPS -> w_st = RUN; w_lease = NONE
        :: w_step < STEPS ->                    /* with keep: the worker holds on, under a new number */
            w_st = EXE; w_lease = LIVE;
#ifndef BUG_KEEP_SAME_NUMBER
            new_no = (w_no + 1 > clock + 1 -> w_no + 1 : clock + 1); w_no = new_no
#endif
        fi
    };
    if
    :: atomic {                                 /* commits */
        assert(c_serial == held[me]);          /* under the claim that produced it, */
        assert(c_step == my_step);              /* out of the step that it ran, */
        assert(applied[my_step] == 0);          /* and once */
        applied[my_step] = 1;
        flush();
        if
        :: w_st == EXE -> serial++; w_serial = serial; clock = (w_no > clock -> w_no : clock)
        :: else -> skip
        fi;
        if
        :: w_st == EXE -> my_no = w_no; my_step = w_step; held[me] = w_serial; new_no = 0; renewed = 0;
            publish(); goto working
        :: faults > 0 -> faults--; new_no = 0; publish(); goto commit         /* the answer is lost: sent again */
        :: w_st != EXE -> my_no = 0; held[me] = 0; my_step = 0; renewed = 0; publish(); goto idle
        fi
       }
    :: atomic { faults > 0 -> faults--; new_no = 0; undo(); goto commit }     /* rolled back: sent again */
    :: atomic { faults > 0 -> faults--; my_no = 0; held[me] = 0; my_step = 0; new_no = 0; renewed = 0;
        undo(); goto idle }                     /* rolled back, and the worker is gone */
    fi;
over:
    skip
}

proctype Reaper()
{
    byte no = 0;
    do
    :: atomic { lock == 0 && c_st == EXE && c_lease == PAST -> no = c_no };       /* _reap_expired: the walk reads */
        atomic {                                                              /* _reap_one: lock, looked at again */
            if
#ifdef BUG_REAP_TRUSTS_THE_WALK
            :: lock == 0 && c_st == EXE -> lock = REAPER
#else
            :: lock == 0 && c_st == EXE && c_lease == PAST && c_no == no -> lock = REAPER
#endif
            :: else -> skip
            fi;
            no = 0
        };
        if
        :: lock == REAPER ->
            atomic { w_st = RUN; w_lease = NONE };
            atomic {
                assert(c_lease == PAST);        /* a live claim is never taken back */
                flush(); publish()
            }
        :: else -> skip
        fi
    :: c_st == END -> break
    od
}

proctype Canceller()
{
    if
    :: skip
    :: atomic { lock == 0 -> lock = CLIENT };   /* gd_cancel waits for the row */
        atomic { if :: w_st != END -> w_st = END; w_lease = NONE :: else -> skip fi };
        if
        :: atomic { flush(); publish() }
        :: atomic { undo() }
        fi
    fi
}

/* A server crash ends all transactions first, which they may do by themselves; so it is enough where none is open. */
proctype Server()
{
    if
    :: skip
    :: atomic {
        lock == 0 && unflushed ->
        c_st = o_st; c_no = o_no; c_lease = o_lease; c_serial = o_serial;
        undo(); flush()                             /* the clock goes on */
       }
    fi
}

#define abandoned(n) (held[1] != n && held[2] != n)

proctype Clock()
{
    do
    /* an older lease ends before a renewed one that is not committed yet */
    :: atomic {
        c_st == EXE && c_lease == LIVE && (abandoned(c_serial) || early > 0) ->
        if :: abandoned(c_serial) -> skip :: else -> early-- fi;
        c_lease = PAST;
        if :: lock == 0 -> w_lease = PAST :: else -> skip fi
       }
    :: atomic { unflushed -> flush() }                /* the claim reaches the disk */
    :: c_st == END -> break
    od
}

init {
    atomic { run Worker(1); run Worker(2); run Reaper(); run Canceller(); run Server(); run Clock() }
}

ltl ends { <> (c_st == END) }
