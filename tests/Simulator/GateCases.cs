using System;
using System.Collections.Generic;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// The gate between merge and readers, with the merge reduced to its use of the gate: publish, wait until all old readers have left,
/// destroy the old location, repeat. A reader is suspended at every place where another thread may run in between, and there the merge
/// makes any number of steps. While the merge publishes, other readers enter. Every location that a reader looked up must stay valid until
/// that reader leaves.
/// </summary>
public static class GateCases
{
    // Publish, wait and destroy, two and a half times, so that each counter of the gate is used again.
    private const int MostSteps = 8;

    /// <summary>Number of places at which an entering reader can be suspended; after these, the merge makes no more steps.</summary>
    private const int MostPauses = 4;

    /// <summary>Runs every schedule; returns how many there were.</summary>
    public static int Check()
    {
        int schedules = 0;
        int[] steps = new int[MostPauses];
        for (int before = 0; before < 6; before++)
        {
            for (int number = 0; number < Math.Pow(MostSteps, MostPauses); number++)
            {
                int rest = number;
                for (int i = 0; i < MostPauses; i++, rest /= MostSteps) steps[i] = rest % MostSteps;
                new Schedule(before, steps).Run();
                schedules++;
            }
        }
        return schedules;
    }

    private sealed class Schedule
    {
        private readonly ReaderGate _gate;
        private readonly int _before;
        private readonly int[] _steps;
        private readonly List<(int Pass, OpLocations Locations)> _guests = [];
        private int _pause;
        private int _state;
        private int _published;
        private int _destroyed;
        private bool _publishing;

        public Schedule(int before, int[] steps)
        {
            (_before, _steps) = (before, steps);
            _gate = new ReaderGate { Interleave = ComeBetween };
            _gate.Publish(new OpLocations(0, 0));
        }

        public void Run()
        {
            _pause = MostPauses;
            Merge(_before);
            _pause = 0;
            int pass = _gate.Enter();
            OpLocations locations = _gate.Locations;
            ComeBetween();
            See(locations);
            ComeBetween();
            See(locations);
            _gate.Leave(pass);
            foreach ((int guest, OpLocations seen) in _guests)
            {
                See(seen);
                _gate.Leave(guest);
            }
            // No reader is inside, so the merge must not wait.
            int published = _published;
            _pause = MostPauses;
            _guests.Clear();
            Merge(6, guests: false);
            if (_published < published + 2) throw new LostDataException($"the merge waits although every reader has left: {this}");
        }

        private void ComeBetween()
        {
            if (_publishing)
            {
                // Another reader enters in the middle of the merge's step and stays.
                if (_guests.Count == 2) return;
                bool was = _publishing;
                _publishing = false;
                int pause = _pause;
                _pause = MostPauses;
                int pass = _gate.Enter();
                _guests.Add((pass, _gate.Locations));
                See(_guests[^1].Locations);
                (_publishing, _pause) = (was, pause);
                return;
            }
            if (_pause < MostPauses) Merge(_steps[_pause++]);
        }

        private void Merge(int steps, bool guests = true)
        {
            for (; steps > 0; steps--)
            {
                foreach ((_, OpLocations seen) in _guests) See(seen);
                switch (_state)
                {
                    case 0:
                        _publishing = guests;
                        _published++;
                        _gate.Publish(new OpLocations(_published, _published));
                        _publishing = false;
                        _state = 1;
                        break;
                    case 1 when _gate.IsDone:
                        _state = 2;
                        break;
                    case 2:
                        _destroyed = _published;
                        _state = 0;
                        break;
                }
                // A guest stays for some steps, so that the merge has to wait for it.
                if (_state == 1 && _guests.Count > 0 && steps % 3 == 0)
                {
                    See(_guests[0].Locations);
                    _gate.Leave(_guests[0].Pass);
                    _guests.RemoveAt(0);
                }
            }
        }

        private void See(OpLocations locations)
        {
            if (locations.Counted != locations.Window)
                throw new LostDataException($"a reader got the count of one moment and the window of another: {locations}; {this}");
            if (locations.Counted < _destroyed)
                throw new LostDataException(
                    $"a reader is inside and uses {locations}, but everything before {_destroyed} is destroyed; {this}");
        }

        public override string ToString() => $"{_before} steps before, then {string.Join(", ", _steps)} where the reader is suspended";
    }
}
